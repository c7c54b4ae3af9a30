"""Count parameters, and convert counts to the poster's sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from basis.errors import CompressionError
from quant.fake_quantizer import FakeQuantizer

_NORMALIZATION = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def count_params(model: nn.Module) -> int:
    """Count every parameter but those of normalization layers, as the poster does (ResNet-18: 11,679,912).

    Coefficients count in place of their kernels; a parameter that several layers share counts once. Scales that fake
    quantizers learn are part of the number format, not of the network, and are left out.
    """
    counted = {parameter for module in _counted_modules(model) for parameter in module.parameters(recurse=False)}
    return sum(parameter.numel() for parameter in counted)


def compressible_params(model: nn.Module) -> int:
    """Count the values of the kernels (or coefficients) that mix neighbouring pixels, biases left out.

    In a network with depthwise convolutions, these count, and so does the stem: the first convolution with a kernel
    larger than 1x1. Its other such kernels only shrink the image between stages and do not count. This is the poster's
    '#Comp. Params.' of ConvNeXt-T: 329,184. Without depthwise convolutions every kernel larger than 1x1 counts.
    Layers come in the order of registration, as in ``model.modules()``.
    """
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and math.prod(m.kernel_size) > 1]
    depthwise = [conv for conv in spatial if conv.groups == conv.in_channels > 1]
    chosen = [spatial[0], *depthwise] if depthwise else spatial
    return sum(kernel.numel() for kernel in {_stored_kernel(conv) for conv in chosen})


def poster_size_mb(params: int, bits: int) -> float:
    """Return the poster's model size in MB of 10**6 bytes: params x (bits + 8) / 8 / 10**6.

    Its floats have one sign, seven exponent and ``bits`` mantissa bits, so a value takes ``bits`` + 8 bits.

    Raises:
        CompressionError: ``params`` is negative or ``bits`` is not positive.
    """
    if params < 0 or bits < 1:
        raise CompressionError(
            f"poster_size_mb got params={params} and bits={bits}; allowed: params of 0 and bits of 1 or more"
        )
    return params * (bits + 8) / 8 / 1e6


def _counted_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that own network parameters: all but normalization layers and parts of fake quantizers."""
    if isinstance(model, FakeQuantizer):
        return
    if not isinstance(model, _NORMALIZATION):
        yield model
    for child in model.children():
        yield from _counted_modules(child)


def _stored_kernel(conv: nn.Conv2d) -> Tensor:
    """Return the stored tensor of a kernel: coefficients, or the weight; the original of a parametrization."""
    name = "coefficients" if getattr(conv, "coefficients", None) is not None else "weight"
    parametrizations = getattr(conv, "parametrizations", {})
    stored: Tensor = parametrizations[name].original if name in parametrizations else getattr(conv, name)
    return stored
