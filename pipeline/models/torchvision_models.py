"""Build torchvision's classification networks and download their weights; no other module does."""

import math
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from pipeline.errors import DataError, OptionsError
from pipeline.models import cifar_resnet
from pipeline.options.values import BUILTIN

# Both networks were trained on inputs scaled to -1..1, and torchvision's weights expect `transform_input`, which turns
# ImageNet's normalization into that scale. It has no parameters, so it is always set: then the name alone rebuilds it.
_INCEPTION: Final = {"aux_logits": False, "init_weights": True, "transform_input": True}
_ARGUMENTS: Final[dict[str, dict[str, bool]]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}


@cache
def _zoo() -> Any:
    # Imported on first use, because that takes as long as importing torch.
    return import_module("torchvision.models")


@cache
def names() -> tuple[str, ...]:
    """Return the names of the classification networks; torchvision keeps all other kinds in submodules."""
    return tuple(_zoo().list_models(module=_zoo()))


def includes(name: str) -> bool:
    """Return True if ``name`` is a classification network of torchvision, which is imported only if it may be one."""
    return ":" not in name and name not in cifar_resnet.BUILDERS and name in names()


def build(name: str, classes: int) -> nn.Module:
    """Build the network ``name`` with random weights and ``classes`` outputs, on the default device.

    Args:
        name: A name in ``names()``.
        classes: Number of outputs.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: torchvision has no such network.
    """
    create = partial(_zoo().get_model, name, weights=None, num_classes=classes, **arguments(name))
    device = torch.get_default_device()
    if device.type != "meta":
        return cast(nn.Module, create())
    try:
        return cast(nn.Module, create())
    except (NotImplementedError, RuntimeError) as error:
        if "meta tensor" not in str(error):
            raise
        # RegNet computes its widths with tensors and reads their values, which meta tensors do not have.
        with torch.device("cpu"):
            return cast(nn.Module, create()).to(device)


def arguments(name: str) -> dict[str, bool]:
    """Return the arguments that the network ``name`` is built with, besides the number of classes."""
    return _ARGUMENTS.get(name, {})


def default_weights_name(name: str) -> str | None:
    """Return the name of torchvision's default weights of ``name`` (``IMAGENET1K_V1``), or None if it has none."""
    if not includes(name):
        return None
    default = getattr(_zoo().get_model_weights(name), "DEFAULT", None)
    return None if default is None else str(default.name)


def statistics(name: str, weights_name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation per channel of the inputs for which weights were trained.

    Args:
        name: A name in ``names()``.
        weights_name: A member of the network's weights; for any other text, the default weights count.
    """
    weights = _published(name, weights_name)
    transforms = None if weights is None else weights.transforms()
    mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    return None if not mean or not std else (tuple(mean), tuple(std))


def published_top1(name: str, weights_name: str) -> float | None:
    """Return the Top-1 on ImageNet's validation images, in percent, that torchvision publishes for weights."""
    metrics = getattr(_published(name, weights_name), "meta", {}).get("_metrics", {})
    top1 = metrics.get("ImageNet-1K", {}).get("acc@1")
    return None if top1 is None or math.isnan(top1) else float(top1)  # NaN for features without a classifier


def download_weights(name: str, classes: int, weights_name: str) -> dict[str, Tensor]:
    """Download torchvision's weights, or read them from torch's cache.

    Args:
        name: A name in ``names()``.
        classes: Classes of the data.
        weights_name: A member of the network's weights, such as ``IMAGENET1K_V1``.

    Returns:
        The state dict as torchvision publishes it.

    Raises:
        OptionsError: torchvision has no such weights.
        DataError: The weights have another number of classes or cannot be downloaded.
    """
    weights = _fitting(name, classes, weights_name)
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"the weights {weights_name} of {name} could not be downloaded from {weights.url} "
            f"({reason}): connect to the network, "
            "put that file in torch's cache, or give --weights a checkpoint file"
        ) from error
    return state


def missing_download(name: str, classes: int, weights_name: str) -> str:
    """Return the address and size of the file that ``download_weights`` would download.

    The text is empty if the file is in torch's cache.

    Args:
        name: A name in ``names()``.
        classes: Classes of the data.
        weights_name: A member of the network's weights.

    Raises:
        OptionsError: torchvision has no such weights.
        DataError: The weights have another number of classes.
    """
    weights = _fitting(name, classes, weights_name)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if file.is_file():
        return ""
    size = weights.meta.get("_file_size")
    return f"{weights.url}{'' if size is None else f' ({size:.1f} MB)'}"


def _fitting(name: str, classes: int, weights_name: str) -> Any:
    """Return torchvision's description of weights that have the number of classes."""
    weights = _find(name, weights_name)
    published = len(weights.meta["categories"])
    if published != classes:
        raise DataError(f"the weights {weights_name} of {name} have {published} classes, but the data has {classes}")
    return weights


def _published(name: str, weights_name: str) -> Any:
    """Return the weights of that name, else the default weights, else None."""
    kinds = _zoo().get_model_weights(name)
    return kinds.__members__.get(weights_name) or getattr(kinds, "DEFAULT", None)


def _find(name: str, weights_name: str) -> Any:
    members = dict(_zoo().get_model_weights(name).__members__) if includes(name) else {}
    if weights_name not in members:
        allowed = ", ".join(("auto", BUILTIN, *members, "or the path of a checkpoint file"))
        raise OptionsError(f"--weights: got {weights_name!r} for {name}; allowed: {allowed}")
    return members[weights_name]
