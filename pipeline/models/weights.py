"""Load weights from a file or from torchvision into a network: all of them or, after an error, none."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.models import build_model
from pipeline.models.torchvision_models import default_weights_name, download_weights, missing_download

__all__ = ["default_weights_name", "load_torchvision_weights", "load_weights", "missing_download"]

_PREFIXES: Final = ("module.", "_orig_mod.")
_CONTAINERS: Final = ("state_dict", "model")
# torchvision's published DenseNets have keys with `norm.1`; the network's parameters are named `norm1`.
_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict from a file into `model`, in place, without running any code that the file may hold.

    Args:
        model: The network, on a real device.
        path: A `.safetensors` file, or a file that `torch.save` wrote: a state dict, or a dict that holds one as
            `state_dict` or `model`. The prefixes `module.` and `_orig_mod.` of wrappers are removed. Any floating dtype
            is converted to the network's. Counters of batch normalization (`num_batches_tracked`) may be missing.

    Raises:
        DataError: If the file is missing, damaged or not a state dict, or if names, shapes, dtypes or values do not
            fit the network. The network is then unchanged.
    """
    _copy_state(model, _state_dict(_read(path), path), f"the checkpoint {path}")


def load_torchvision_weights(model_name: str, classes: int, weights_name: str) -> nn.Module:
    """Build a torchvision classifier with torchvision's own weights.

    Args:
        model_name: A torchvision classifier's name.
        classes: Classes of the data; the weights must have the same number.
        weights_name: Name of the weights, such as `IMAGENET1K_V1`.

    Returns:
        The network, in training mode.

    Raises:
        OptionsError: If torchvision has no such network or weights.
        DataError: If the class counts differ, or if the download fails.
    """
    state = download_weights(model_name, classes, weights_name)
    model = build_model(model_name, classes)
    _copy_state(model, state, f"torchvision's {weights_name} of {model_name}")
    return model


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError(
            f"the checkpoint {path} does not exist or is not a file; give a .safetensors, .pt, .pth or .th file"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything from UnicodeDecodeError to KeyError
        raise DataError(
            f"the checkpoint {path} cannot be read: it is damaged, or it holds more than "
            f"tensors and plain values ({type(error).__name__}); "
            "a state dict saved by torch.save or safetensors is allowed"
        ) from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in _CONTAINERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise DataError(
            f"the checkpoint {path} holds a {type(content).__name__}; a state dict, or a dict "
            "with `state_dict`, is allowed"
        )
    strange = [key for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if strange or not content:
        got = f"its entry {strange[0]!r} is a {type(content[strange[0]]).__name__}" if strange else "it is empty"
        raise DataError(f"the checkpoint {path} is not a state dict: {got}, but a dict of names and tensors is needed")
    return dict(content)


def _copy_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    found = _without_prefixes(model, state)
    _check_names(wanted, found, source)
    _check_shapes(model, wanted, found, source)
    converted = {name: _converted(name, tensor, wanted[name], source) for name, tensor in found.items()}
    with torch.no_grad():
        for name, tensor in converted.items():
            wanted[name].copy_(tensor)


def _without_prefixes(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers, and auxiliary classifiers that the network lacks (their attributes are None)."""
    found = {_DENSENET.sub(r"\1\2", name): tensor for name, tensor in state.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return {name: tensor for name, tensor in found.items() if getattr(model, name.split(".")[0], model) is not None}


def _check_names(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    # Old checkpoints lack the counters of batch normalization, and evaluation does not read them.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in wanted]
    problems = [f"{_listed(missing)} missing"] * bool(missing) + [f"{_listed(unexpected)} unexpected"] * bool(
        unexpected
    )
    if problems:
        raise DataError(
            f"{source} does not fit the network: {' and '.join(problems)}; choose the --model it was saved from"
        )


def _check_shapes(model: nn.Module, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    differ = [name for name, tensor in found.items() if tensor.shape != wanted[name].shape]
    if not differ:
        return
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]
    name = differ[0]
    got, need = tuple(found[name].shape), tuple(wanted[name].shape)
    if all(other.rpartition(".")[0] in last for other in differ) and got[1:] == need[1:]:
        raise DataError(
            f"{source} has {got[0]} classes (its {name} has the shape {got}), but the data has "
            f"{need[0]}; the two must be the same"
        )
    raise DataError(f"{source} does not fit the network: {name} has the shape {got}, but {need} is needed")


def _converted(name: str, tensor: Tensor, wanted: Tensor, source: str) -> Tensor:
    kind = "floating" if wanted.is_floating_point() else "integer"
    integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    fits = tensor.is_floating_point() if kind == "floating" else integer
    if not fits or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise DataError(
            f"{source} does not fit the network: {name} has the dtype {tensor.dtype}, but a "
            f"dense {kind} tensor is needed"
        )
    converted = tensor.detach().to(wanted.dtype)
    if not torch.isfinite(converted).all():
        raise DataError(f"{source} is damaged: {name} holds values that are not finite in {wanted.dtype}")
    return converted


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more are" if len(names) > most else " is" if len(names) == 1 else " are"
    return ", ".join(names[:most]) + more
