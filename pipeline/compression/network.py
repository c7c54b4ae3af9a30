"""Copy, check and describe the caller's network."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from basis.layers import stored_tensor_name
from basis.modes import evaluating
from basis.regular import copy_marks
from pipeline.artifact import Identity
from pipeline.artifact.header import MOST_CLASSES, default_names
from pipeline.artifact.loading import rebuilt
from pipeline.errors import OptionsError
from pipeline.models.checks.network import check_network, outputs_in_modes, run_network
from pipeline.models.checks.registration import refuse_shared_memory
from pipeline.models.outputs import check_rows, images_first, select_output, tensors_of
from pipeline.models.preparation import (
    check_finite,
    fold_parametrizations,
    freeze_scripted_parts,
    plain_copy,
    unwrapped,
    without_wrappers,
)


def private_copy(network: object) -> nn.Module:
    """Copy a network, without wrappers such as ``DataParallel`` and ``torch.compile``, in evaluation mode.

    Computed weights, such as of weight normalization, become plain ones.

    Raises:
        OptionsError: It is no network, or it cannot be copied or compressed.
        DataError: A parameter is NaN or infinite.
    """
    if not isinstance(network, nn.Module):
        got = f"the class {network.__name__}" if isinstance(network, type) else f"a {type(network).__name__}"
        raise OptionsError(f"network: got {got}; allowed: an instance of nn.Module")
    inner = unwrapped(network)
    name = type(inner).__name__
    if isinstance(inner, torch.jit.ScriptModule):
        raise OptionsError(f"network: got the scripted network {name}; allowed: the nn.Module that it was made from")
    if stored_tensor_name(inner) is not None:
        raise OptionsError(
            f"network: got a bare {name}; allowed: a network that holds it, such as nn.Sequential(layer)"
        )
    for parameter_name, parameter in inner.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise OptionsError(
                f"network: {parameter_name} of {name} has no values yet; allowed: a network that has run on a batch"
            )
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise OptionsError(
                f"network: {parameter_name} of {name} is {parameter.dtype}; allowed: float32, as from "
                "copy.deepcopy(network).float()"
            )
    _check_device(inner)
    refuse_shared_memory(inner)  # copies of buffers have memory of their own
    check_finite(inner, f"network: {name}")
    network = evaluating(without_wrappers(plain_copy(inner)))
    freeze_scripted_parts(network)
    return fold_parametrizations(network)


def _check_device(network: nn.Module) -> None:
    """Check that all tensors of a network are on one device with memory.

    Raises:
        OptionsError: Its tensors are on several devices, or on the meta device.
    """
    devices = {tensor.device for tensors in (network.parameters(), network.buffers()) for tensor in tensors}
    if len(devices) > 1 or torch.device("meta") in devices:
        got = ", ".join(sorted(map(str, devices)))
        raise OptionsError(f"network: got {type(network).__name__} on {got}; allowed: one device with memory")


def check(network: nn.Module, images: Tensor, *, basis: str, trained: bool) -> Any:
    """Check a network on some images; see ``pipeline.models.checks.network``. Outputs may be of any kind.

    Args:
        network: The network, in evaluation mode. It gets the marks of the check, and a hook if its input needs
            protection.
        images: (N, C, H, W), on its device.
        basis: The basis of the series.
        trained: True if the network is trained.

    Returns:
        The output of the network for the images.

    Raises:
        OptionsError: The network does not take the images, or cannot be compressed.
    """
    probe = plain_copy(network)
    probe.register_forward_hook(_joined)

    hooks = len(probe._forward_pre_hooks)
    checked = check_network(
        plain_copy(probe),
        images,
        classes=None,
        output=None,
        basis=basis,
        trained=trained,
        rebuild=lambda model: rebuilt(model, plain_copy(probe)),
    )
    copy_marks(checked, network)
    for hook in list(checked._forward_pre_hooks.values())[hooks:]:
        network.register_forward_pre_hook(hook)
    return run_network(network, images, training=False)


def returns_tensor(network: nn.Module, images: Tensor, *, trained: bool) -> bool:
    """Return True if a checked network returns a single tensor, also in training mode if it is trained."""
    return all(isinstance(output, Tensor) for output in outputs_in_modes(network, images, trained=trained))


def selected(network: nn.Module, images: Tensor, output: str | None) -> tuple[int, Tensor]:
    """Make a network return one of its outputs alone; see ``pipeline.models.outputs.select_output``.

    Args:
        network: The network, changed in place.
        images: (N, C, H, W), on its device.
        output: See ``select_output``.

    Returns:
        The key of the forward hook that selects the output, and the output for the images.

    Raises:
        OptionsError: There is no such output, or it has no row for each image.
    """
    before = set(network._forward_hooks)
    select_output(network, output)
    (key,) = network._forward_hooks.keys() - before
    with torch.no_grad():
        found: Tensor = network(images.clone())
    check_rows(found, len(images), output, type(network).__name__)
    return key, found


def _joined(module: nn.Module, inputs: tuple[Any, ...], result: Any) -> Tensor:
    """Join all tensors that a network returns for N images, as rows: (N, values), float32."""
    (images, *_) = (value for value in inputs if isinstance(value, Tensor))
    found = [
        tensor.detach() if tensor.is_complex() else tensor
        for tensor in tensors_of(result)
        if tensor.ndim and len(tensor) == len(images)
    ]
    if not found:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(result)[:3])
        got = f"tensors of the shape {shapes}" if shapes else f"a {type(result).__name__} without a tensor"
        mode = " in training mode" if module.training else ""
        raise OptionsError(
            f"network: {type(module).__name__} returns {got} for {len(images)} images{mode}; allowed: at least one "
            f"tensor whose {images_first(tensors_of(result), len(images))}"
        )
    parts = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in found]
    return torch.cat([part.reshape(len(part), -1).float() for part in parts], dim=1)


def identity_of(network: nn.Module, output: Any, images: Tensor) -> Identity:
    """Describe a network whose class is the caller's.

    Args:
        network: The network.
        output: Its output for some images.
        images: The images, (N, C, H, W).
    """
    kind = type(network)
    width = output.shape[1] if isinstance(output, Tensor) and output.ndim > 1 else 1
    classes = min(width, MOST_CLASSES)  # an output may be whole maps, flattened
    size = (images.shape[2], images.shape[3])
    nothing, one = (0.0,) * images.shape[1], (1.0,) * images.shape[1]
    name = f"{kind.__module__}.{kind.__qualname__}"
    return Identity(name, classes, default_names(classes), nothing, one, size, is_object=True)
