"""Copy and check the caller's network."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from basis.layers import stored_tensor_name
from pipeline.artifact import Identity
from pipeline.artifact.header import default_names
from pipeline.errors import OptionsError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def private_copy(network: object) -> nn.Module:
    """Copy a network, without wrappers such as ``DataParallel`` and ``torch.compile``, in evaluation mode.

    Raises:
        OptionsError: It is no network, or it cannot be copied or compressed.
    """
    if not isinstance(network, nn.Module):
        got = f"the class {network.__name__}" if isinstance(network, type) else f"a {type(network).__name__}"
        raise OptionsError(f"network: got {got}; allowed: an instance of nn.Module")
    inner = _unwrapped(network)
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
    device_of(inner)
    try:
        return copy.deepcopy(inner).eval()
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OptionsError(
            f"network: {name} cannot be copied ({reason}); allowed: one that copy.deepcopy takes"
        ) from error


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network; the CPU if it has no tensor.

    Raises:
        OptionsError: Its tensors are on several devices, or on the meta device.
    """
    devices = {tensor.device for tensors in (network.parameters(), network.buffers()) for tensor in tensors}
    if len(devices) > 1 or torch.device("meta") in devices:
        got = ", ".join(sorted(map(str, devices)))
        raise OptionsError(f"network: got {type(network).__name__} on {got}; allowed: one device with memory")
    return devices.pop() if devices else torch.device("cpu")


@torch.no_grad()
def checked_output(network: nn.Module, images: Tensor) -> Any:
    """Run a network on some images, and return its output.

    Args:
        network: The network, in evaluation mode.
        images: (N, C, H, W), on its device.

    Raises:
        OptionsError: The network does not take the images.
    """
    try:
        return network(images.clone())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise OptionsError(
            f"network: {type(network).__name__} does not take images of the shape {tuple(images.shape)} ({reason}); "
            "allowed: images as in its training"
        ) from error


def identity_of(network: nn.Module, output: Any, images: Tensor) -> Identity:
    """Describe a network whose class is the caller's.

    Args:
        network: The network.
        output: Its output for some images.
        images: The images, (N, C, H, W).
    """
    kind = type(network)
    classes = output.shape[1] if isinstance(output, Tensor) and output.ndim > 1 else 1
    size = (images.shape[2], images.shape[3])
    nothing, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return Identity(name, classes, default_names(classes), nothing, one, size, is_object=True)


def _unwrapped(network: nn.Module) -> nn.Module:
    while True:
        if isinstance(network, _WRAPPERS):
            network = cast(nn.Module, network.module)
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):  # of torch.compile
            network = inner
        else:
            return network
