"""Copy and check the caller's network."""

import copy
from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves

from basis.computed_weights import copied, store_computed_weights
from basis.errors import CompressionError
from basis.layers import stored_tensor_name
from basis.least_squares import Size2d
from basis.swap import materialize, swap_convolutions
from pipeline.artifact import Identity, serialize
from pipeline.artifact.batchnorm import NORMALIZATION_ERROR
from pipeline.artifact.header import default_names
from pipeline.artifact.record import build_network
from pipeline.errors import OptionsError
from pipeline.models.wrappers import unwrapped
from pipeline.runtime.device import placed
from pipeline.stages.target_sizes import zero_record

TOLERANCE: Final = 1e-3
"""Largest difference of the outputs of equal filters, as a share of their norm; float32 sums differ by far less."""


def private_copy(network: object) -> nn.Module:
    """Copy a network, without wrappers such as ``DataParallel`` and ``torch.compile``, in evaluation mode.

    Computed weights, such as of weight normalization, become plain ones.

    Raises:
        OptionsError: It is no network, or it cannot be copied or compressed.
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
    device_of(inner)
    try:
        return store_computed_weights(copied(inner).eval())
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


def checked_output(network: nn.Module, images: Tensor) -> Any:
    """Run a network twice on some images, and return its output.

    Args:
        network: The network, in evaluation mode.
        images: (N, C, H, W), on its device.

    Raises:
        OptionsError: The network does not take the images, changes them in place, or is random.
    """
    given = images.clone()
    first, second = _output(network, given), _output(network, images.clone())
    name = type(network).__name__
    if not torch.equal(given, images):
        raise OptionsError(
            f"network: {name} changes its input in place; allowed: a network that leaves its input alone"
        )
    if _differs(second, first, 0.0):
        raise OptionsError(f"network: {name} gives two outputs for equal images; allowed: no randomness after eval()")
    return first


def check_series(
    network: nn.Module, orders: Mapping[str, Size2d], basis: str, output: Any, images: Tensor, identity: Identity
) -> None:
    """Check that series and the file can take the place of a network's layers.

    Args:
        network: The network, in evaluation mode.
        orders: Layer name -> order of its series.
        basis: The basis of the series.
        output: The network's output for the images.
        images: (N, C, H, W), on its device.
        identity: The description of the network in the file.

    Raises:
        OptionsError: The network with series of full order, which has the same filters, gives another output; or the
            network cannot be built from the tensors of its file.
    """
    name, modules = type(network).__name__, dict(network.named_modules())
    full = {layer: cast(Size2d, cast(nn.Conv2d, modules[layer]).kernel_size) for layer in orders}

    def fails(layers: Mapping[str, Size2d]) -> bool:
        swapped = placed(swap_convolutions(copy.deepcopy(network), layers, basis), images.device).eval()
        try:
            return _differs(_output(swapped, images.clone()), output, TOLERANCE)
        except OptionsError:  # for example because the network reads conv.weight, which a series lacks
            return True

    if full and fails(full):
        layer = next((layer for layer, order in full.items() if fails({layer: order})), next(iter(full)))
        raise OptionsError(
            f"network: layer {layer!r} of {name} does more than convolve with its weight, such as a hook or a use of "
            "its weight elsewhere; allowed: plain convolutions, or config='dense'"
        )
    swapped = swap_convolutions(copy.deepcopy(network), full, basis) if full else copy.deepcopy(network)
    try:
        record = zero_record(swapped, NORMALIZATION_ERROR)
        build_network(record, materialize(copy.deepcopy(network)))
        serialize(record, identity)
    except CompressionError as error:
        raise OptionsError(f"network: {name} cannot be stored and built again ({error})") from error


@torch.no_grad()
def _output(network: nn.Module, images: Tensor) -> Any:
    try:
        return network(images)
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


def _differs(found: Any, wanted: Any, tolerance: float) -> bool:
    """Return True if tensors of two outputs differ by more than a share of their norm; NaN equals NaN."""
    pairs = [
        (a.double().nan_to_num(), b.double().nan_to_num())
        for a, b in zip(tree_leaves(found), tree_leaves(wanted), strict=False)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and not a.is_complex()
    ]
    return any(a.shape != b.shape or float((a - b).norm()) > tolerance * float(b.norm()) for a, b in pairs)
