"""From the name of a network to the network, and a check that it takes the data's images."""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import DataError, OptionsError
from pipeline.models import cifar_resnet, torchvision_models
from pipeline.models.imported import import_model


def model_names() -> tuple[str, ...]:
    """Every name that `build_model` knows, apart from `module:callable`."""
    return (*cifar_resnet.BUILDERS, *torchvision_models.names())


def build_model(name: str, classes: int, *, allow_import: bool = True) -> nn.Module:
    """Build a network with random weights, on the current default device (`meta` too).

    Args:
        name: resnet20/32/44/56/110, a torchvision classifier's name, or `module:callable`.
        classes: Width of the output.
        allow_import: Whether `module:callable` may be imported; False where the name comes from a file.

    Returns:
        The network, in training mode.

    Raises:
        OptionsError: If the name is unknown, or if `module:callable` fails or is not allowed.
    """
    if ":" in name:
        if not allow_import:
            raise OptionsError(
                f"the model {name!r} would import code, which is not allowed here; allow it with --allow-import "
                "(allow_import=True), or pass the network itself"
            )
        return import_model(name, classes)
    if name in cifar_resnet.BUILDERS:
        return cifar_resnet.BUILDERS[name](classes)
    if name in torchvision_models.names():
        return torchvision_models.build(name, classes)
    raise OptionsError(_unknown(name))


def builder_of(name: str, classes: int) -> tuple[str, dict[str, bool | int]]:
    """Tell how `build_model` builds a network, in words that an artifact can hold.

    Args:
        name: A name that `build_model` takes.
        classes: Width of the output.

    Returns:
        The builder, and the arguments that it gets beside the name: `cifar_resnet` is He et al.'s network of
        6 `blocks` + 2 layers, `torchvision` is `torchvision.models.get_model`, and `import` is the callable that the
        name says, which gets `num_classes` where it takes it.

    Raises:
        OptionsError: If the name is unknown.
    """
    if ":" in name:
        return "import", {"num_classes": classes}
    if name in cifar_resnet.BLOCKS:
        return "cifar_resnet", {"blocks": cifar_resnet.BLOCKS[name], "classes": classes}
    if name in torchvision_models.names():
        return "torchvision", {"num_classes": classes, **torchvision_models.arguments(name)}
    raise OptionsError(_unknown(name))


def check_forward(model: nn.Module, classes: int, image_size: tuple[int, int]) -> None:
    """Run one image through the network; its mode, buffers and gradients stay as they were.

    Args:
        model: The network, on any device.
        classes: Classes of the data.
        image_size: Height and width of the data's images, in pixels.

    Raises:
        OptionsError: If the network cannot take an RGB image of that size.
        DataError: If the output is not a tensor of shape (1, classes).
    """
    height, width = image_size
    try:
        output = _run_once(model, height, width)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionsError(
            f"the network {type(model).__name__} cannot take images of {height}x{width} pixels "
            f"with 3 channels ({reason}); choose another "
            "model or data of another size"
        ) from error
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if got != (1, classes):
        raise DataError(
            f"the network {type(model).__name__} gives {got} for one image, but data of "
            f"{classes} classes needs a tensor of shape (1, {classes})"
        )


def _run_once(model: nn.Module, height: int, width: int) -> Any:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return model(torch.zeros(1, 3, height, width, device=device))
    finally:
        for module, training in modes.items():
            module.training = training


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), model_names(), n=3)
    hint = f"did you mean {' or '.join(near)}? Allowed:" if near else "allowed:"
    ours = ", ".join(cifar_resnet.BUILDERS)
    return f"unknown model {name!r}; {hint} {ours}, any torchvision classifier, or module:callable"
