"""Build a network from its name, and check that it accepts the images of the data."""

import difflib
import re
from typing import Any, Final

import torch
from torch import Tensor, nn

from basis.devices import device_of
from basis.modes import evaluation_mode
from pipeline.errors import DataError, OptionsError, described
from pipeline.models import cifar_resnet, timm_models, torchvision_models
from pipeline.models.imported import import_model
from pipeline.models.preparation import (
    fold_parametrizations,
    freeze_scripted_parts,
    initialize_lazy_modules,
    refuse_meta_tensors,
    without_wrappers,
)
from pipeline.runtime.randomness import RandomStream, python_generators

# Words in the messages of PyTorch's and torchvision's shape errors. CPU allocation errors contain none of them.
_SHAPE_WORDS: Final = re.compile(r"shape|size|dimension|channel|height|width|kernel|stride|pad", re.IGNORECASE)


def model_names() -> tuple[str, ...]:
    """Return every name that ``build_model`` accepts, apart from ``module:callable``."""
    return (*cifar_resnet.BUILDERS, *torchvision_models.names())


def build_model(name: str, classes: int, *, allow_import: bool = True) -> nn.Module:
    """Build a network with random weights, on the current default device (``meta`` too).

    Args:
        name: resnet20/32/44/56/110, a torchvision classifier's name, ``timm:NAME``, or ``module:callable``.
        classes: Width of the output.
        allow_import: True if ``module:callable`` may be imported; pass False for a name that was read from a file.

    Returns:
        The network, in training mode.

    Raises:
        OptionsError: The name is unknown, or ``module:callable`` fails or is not allowed.
    """
    if name.startswith(timm_models.PREFIX):
        return timm_models.build(name, classes)
    if ":" in name:
        if not allow_import:
            raise OptionsError(
                f"the model {name!r} would import code, which is not allowed here; allow it with --allow-import "
                "(allow_import=True), or pass the network itself"
            )
        with python_generators():
            return import_model(name, classes)
    if name in cifar_resnet.BUILDERS:
        return cifar_resnet.BUILDERS[name](classes)
    if torchvision_models.includes(name):
        return torchvision_models.build(name, classes)
    raise OptionsError(_unknown(name))


def build_trainable(name: str, classes: int, example: Tensor, *, seed: int = 0, allow_import: bool = True) -> nn.Module:
    """Build a network with random weights, without wrappers and lazy parts; its parametrizations remain.

    Args:
        name: See ``build_model``.
        classes: Width of the output.
        example: Images of the data, (N, C, H, W), on the CPU.
        seed: Seed of the weights.
        allow_import: See ``build_model``.

    Returns:
        The network, in training mode. It takes the state dict of the network that the builder returns.

    Raises:
        OptionsError: See ``build_model``.
    """
    with RandomStream(seed, torch.device("cpu")).drawn_from():
        model = without_wrappers(build_model(name, classes, allow_import=allow_import))
        initialize_lazy_modules(model, example)
    refuse_meta_tensors(model, f"the network {name}")
    freeze_scripted_parts(model)
    return model


def build_plain(name: str, classes: int, example: Tensor, *, allow_import: bool = True) -> nn.Module:
    """Build a network of plain modules, as artifacts store it; arguments and errors as in ``build_trainable``."""
    return fold_parametrizations(build_trainable(name, classes, example, allow_import=allow_import))


def builder_of(name: str, classes: int) -> tuple[str, dict[str, bool | int]]:
    """Return the builder and the arguments of a network, as an artifact stores them.

    Args:
        name: A name that ``build_model`` takes.
        classes: Width of the output.

    Returns:
        The builder, and its arguments beside the name. ``cifar_resnet`` is He et al.'s network of 6 ``blocks`` + 2
        layers. ``torchvision`` is ``torchvision.models.get_model``, ``timm`` is ``timm.create_model``. ``import`` is
        the callable that the name refers to; it gets ``num_classes`` if its signature accepts it.

    Raises:
        OptionsError: The name is unknown.
    """
    if name.startswith(timm_models.PREFIX):
        return "timm", {"num_classes": classes}
    if ":" in name:
        return "import", {"num_classes": classes}
    if name in cifar_resnet.BLOCKS:
        return "cifar_resnet", {"blocks": cifar_resnet.BLOCKS[name], "classes": classes}
    if torchvision_models.includes(name):
        return "torchvision", {"num_classes": classes, **torchvision_models.arguments(name)}
    raise OptionsError(_unknown(name))


def takes_images(model: nn.Module, channels: int, image_size: tuple[int, int]) -> bool:
    """Return False if the network rejects the shape (1, channels, height, width); other errors are not of its shape."""
    try:
        _run_once(model, channels, image_size)
    except Exception as error:
        return not _is_about_shapes(error)
    return True


def check_forward(model: nn.Module, classes: int, image_size: tuple[int, int], channels: int = 3) -> None:
    """Check that the network maps one image to one logit per class; its modes, buffers and gradients do not change.

    Args:
        model: The network, on any device.
        classes: Classes of the data.
        image_size: Height and width of the data's images, in pixels.
        channels: Number of channels of the images.

    Raises:
        OptionsError: The network rejects the shape (1, channels, height, width): by an assertion, or by a
            ``RuntimeError`` or ``ValueError`` about shapes. Every other exception, such as out of memory, is raised
            unchanged.
        DataError: The output is not a tensor of shape (1, classes).
    """
    height, width = image_size
    try:
        output = _run_once(model, channels, image_size)
    except Exception as error:
        if not _is_about_shapes(error):
            raise
        reason = described(error)
        raise OptionsError(
            f"the network {type(model).__name__} cannot take images of {height}x{width} pixels "
            f"with {channels} channels ({reason}); allowed: the architecture that the file was written for"
        ) from error
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if got != (1, classes):
        raise DataError(
            f"the network {type(model).__name__} gives {got} for one image, but data of "
            f"{classes} classes needs a tensor of shape (1, {classes})"
        )


def _run_once(model: nn.Module, channels: int, image_size: tuple[int, int]) -> Any:
    with evaluation_mode(model), torch.no_grad():
        return model(torch.zeros(1, channels, *image_size, device=device_of(model)))


def _is_about_shapes(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | NotImplementedError):  # both are RuntimeErrors
        return False
    # torchvision's vision transformers assert the image size.
    return isinstance(error, AssertionError) or (
        isinstance(error, RuntimeError | ValueError) and bool(_SHAPE_WORDS.search(str(error)))
    )


def _unknown(name: str) -> str:
    if name.endswith(".py"):
        return f"the model {name!r} names a file, but no callable in it; allowed: {name}:CALLABLE, a class or function"
    near = difflib.get_close_matches(name.lower(), model_names(), n=3)
    hint = f"did you mean {' or '.join(near)}? Allowed:" if near else "allowed:"
    ours = ", ".join(cifar_resnet.BUILDERS)
    return f"unknown model {name!r}; {hint} {ours}, any torchvision classifier, timm:NAME, or module:callable"
