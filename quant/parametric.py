"""Round the stored values of a parametric family, each kind of parameter with steps of its own.

Amplitudes, orders, centres and widths have different units. As for the terms of a series, each parameter has a factor,
which all slices of a layer share:

    value = integer * scale[output channel] * 2^(exponent[parameter] / 4)

The factors are chosen for a small squared error of the kernels. Images are not needed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast

import torch
from torch import Tensor

from basis.least_squares import Size2d
from basis.parametric.conv import ParametricConv2d
from basis.parametric.evaluation import kernels, limits
from quant.backends import Backend
from quant.formats import (
    SMALLEST_SCALE,
    IntFormat,
    QuantizedTensor,
    check_weight,
    nearest_scale,
    per_channel,
    term_factors,
)
from quant.schemes import FixedTensor, Format

SLICES: Final = 1024
"""Slices from which the factors of a layer are chosen: whole output channels, evenly spread."""
STRIDES: Final = (8, 4, 2, 1)
"""Changes of an exponent that are tried, in quarter octaves, each twice.

The amplitude's exponent is not changed: the scales absorb a factor that all parameters share.
"""
_LARGEST_EXPONENT: Final = 127


@torch.no_grad()
def quantize_parameters(module: ParametricConv2d, stored: Tensor, format: Format, backend: Backend) -> FixedTensor:
    """Round stored values to a number format; minifloats have no factors.

    Args:
        module: The layer.
        stored: Its stored values, (O, I, 1, P), floating point; values outside the ranges are clamped.
        format: The number format.
        backend: Its quantizers round.

    Raises:
        CompressionError: The backend lacks the format.
        NumericalError: A value is not finite.
    """
    least, largest = limits(module.basis, stored.device)
    values = check_weight(stored).clamp(least.float(), largest.float())
    if not isinstance(format, IntFormat):
        return backend.quantize(values, format)
    exponents = _exponents(module, values, format)
    divided = values / term_factors(exponents).to(values.device)
    return replace(cast(QuantizedTensor, backend.quantize(divided, format)), terms=exponents)


def _exponents(module: ParametricConv2d, values: Tensor, format: IntFormat) -> Tensor:
    """Choose the exponents by coordinate descent from equal largest values: int8, (1, P)."""
    outputs, inputs, _, count = values.shape
    sampled = values[:: max(1, -(-outputs * inputs // SLICES))]
    kernel = cast(Size2d, module.kernel_size)
    wanted = kernels(sampled.reshape(-1, count).T, module.basis, kernel)

    def error(exponents: Tensor) -> float:
        factors = term_factors(exponents).to(values.device)
        rounded = _rounded(sampled / factors, format) * factors
        return float((kernels(rounded.reshape(-1, count).T, module.basis, kernel) - wanted).square().sum())

    best = _equal_ranges(values)
    least = error(best)
    for stride in STRIDES:
        for place in 2 * list(range(1, count)):
            for change in (-stride, stride):
                tried = best.clone()
                tried[0, place] = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, int(best[0, place]) + change))
                if (found := error(tried)) < least:
                    best, least = tried, found
    return best


def _rounded(values: Tensor, format: IntFormat) -> Tensor:
    """Round to the nearest integers times a scale of each channel, without a backend, whose calls take longer."""
    absmax = values.abs().amax((1, 2, 3)) / format.qmax
    scale = per_channel(nearest_scale(values, absmax.clamp_min(SMALLEST_SCALE), format), values.ndim)
    return (values / scale).round_().clamp_(-format.qmax, format.qmax).mul_(scale)


def _equal_ranges(values: Tensor) -> Tensor:
    """Return the exponents for which all parameters have nearly the same largest magnitude; their mean is about 0."""
    largest = values.abs().amax((0, 1, 2)).to(torch.float64).cpu()
    quarters = 4 * largest.clamp_min(torch.finfo(torch.float32).tiny).log2()
    known = largest > 0
    middle = quarters[known].mean() if bool(known.any()) else quarters.mean()
    exponents = torch.where(known, quarters - middle, 0.0).round().clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return exponents.to(torch.int8)[None]
