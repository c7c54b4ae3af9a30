"""The integer number format, and a tensor that is stored in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from basis.errors import CompressionError, NumericalError
from quant.grid import MAX_EXPONENT, MIN_EXPONENT, PER_OCTAVE, ceiling_exponents, grid_values, nearest_on_grid
from quant.registry import MAX_BITS, MIN_BITS

# The least value of the grid. It is far below any useful weight, yet its inverse and its products with int8 values are
# ordinary float32 numbers, so that a channel of zeros can have a scale that no kernel turns into infinity or NaN.
SMALLEST_SCALE = 2.0 ** (MIN_EXPONENT / PER_OCTAVE)


@dataclass(frozen=True)
class IntFormat:
    """Signed integers of ``bits`` bits, symmetric and narrow: -qmax..qmax (4 bits: -7..7).

    The code -2**(bits-1) is left out so that a weight and its negative round alike.

    Raises:
        CompressionError: ``bits`` is not an integer in 2..8.
    """

    bits: int
    scheme: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        check_bits("IntFormat", self.bits)

    def __str__(self) -> str:
        return f"{self.bits} bits"

    @property
    def stored_bits(self) -> int:
        """Bits of a value in a file."""
        return self.bits

    @property
    def qmax(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        return -self.qmax


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Integers and one scale per output channel; the value of an element is integer x scale.

    Coefficients of a series may have a factor for each of their terms besides: then it is integer x scale x factor.

    Args:
        integers: int8, any shape of one or more axes; axis 0 is the output channel.
        scale: float32, shape (out_channels,), values of ``quant.grid``.
        format: The range that the integers keep to.
        terms: Exponents e of the factors 2^(e/4), int8, shape (nh, nw) for integers (O, I, nh, nw); None for none.

    Raises:
        CompressionError: Types, shapes, range or scales are not as above.
    """

    integers: Tensor
    scale: Tensor
    format: IntFormat
    terms: Tensor | None = None

    def __post_init__(self) -> None:
        if self.integers.dtype != torch.int8 or self.integers.ndim < 1 or self.integers.numel() == 0:
            raise CompressionError(
                f"QuantizedTensor got integers of type {self.integers.dtype} and shape {tuple(self.integers.shape)}; "
                "allowed: a non-empty int8 tensor of one or more axes"
            )
        low, high = (int(bound) for bound in self.integers.aminmax())
        if low < self.format.qmin or high > self.format.qmax:
            raise CompressionError(
                f"QuantizedTensor got integers in {low}..{high}; allowed with {self.format.bits} bits: "
                f"{self.format.qmin}..{self.format.qmax}"
            )
        if self.scale.dtype != torch.float32:
            raise CompressionError(f"QuantizedTensor got a scale of type {self.scale.dtype}; allowed: float32")
        check_scale(self.scale, self.integers.shape[0])
        if self.terms is not None and (
            self.terms.dtype != torch.int8 or self.integers.ndim != 4 or self.terms.shape != self.integers.shape[2:]
        ):
            raise CompressionError(
                f"QuantizedTensor got exponents of type {self.terms.dtype} and shape {tuple(self.terms.shape)} for "
                f"integers of shape {tuple(self.integers.shape)}; allowed: int8, (nh, nw) for (O, I, nh, nw)"
            )

    def dequantize(self) -> Tensor:
        """Return the stored values, float32, shape of ``integers``, by an exact conversion and one or two products."""
        values = self.integers.to(torch.float32) * per_channel(self.scale, self.integers.ndim)
        return values if self.terms is None else values * term_factors(self.terms).to(values.device)

    def cpu(self) -> QuantizedTensor:
        """Return the same tensor on the CPU."""
        return QuantizedTensor(self.integers.cpu(), self.scale.cpu(), self.format, self.terms)


def term_factors(exponents: Tensor) -> Tensor:
    """Return the factors 2^(e/4) of a series' terms: float32, the shape of the exponents, the same on every machine."""
    return grid_values(exponents.to(torch.int32) * (PER_OCTAVE // 4))


def check_bits(name: str, bits: int) -> None:
    """Check that the format ``name`` has this width.

    Raises:
        CompressionError: ``bits`` is not an integer in 2..8.
    """
    if type(bits) is not int or not MIN_BITS <= bits <= MAX_BITS:
        raise CompressionError(f"{name} got bits={bits!r}; allowed: integers {MIN_BITS} to {MAX_BITS}")


def per_channel(scale: Tensor, ndim: int) -> Tensor:
    """View scales (out_channels,) as (out_channels, 1, ...) with ``ndim`` axes, to broadcast over a weight."""
    return scale.reshape(-1, *[1] * (ndim - 1))


def nearest_scale(weight: Tensor, quotients: Tensor, format: IntFormat) -> Tensor:
    """Choose the scales of rounding to nearest: a grid value next to absolute maximum / qmax.

    Rounding the quotient up clips nothing. Rounding it down clips the largest weights by at most 4.3 %, and the step is
    finer: at few bits the error is often smaller. Each channel gets the one with the smaller squared error.

    Args:
        weight: float32, finite, shape (out_channels, ...).
        quotients: Absolute maximum / qmax of each channel, shape (out_channels,).
        format: The range of the integers.

    Returns:
        float32, shape (out_channels,); ``SMALLEST_SCALE`` for a channel of zeros.
    """
    above, rows = ceiling_exponents(quotients), weight.reshape(len(weight), -1)
    scales = [grid_values(above), grid_values((above - 1).clamp_min(MIN_EXPONENT))]
    errors = [_squared_error(rows, scale[:, None], format.qmax) for scale in scales]
    return torch.where(errors[1] < errors[0], scales[1], scales[0])


def _squared_error(rows: Tensor, scale: Tensor, qmax: int) -> Tensor:
    rounded = (rows / scale).round_().clamp_(-qmax, qmax).mul_(scale)
    return rounded.sub_(rows).square_().sum(1, dtype=torch.float64)


def check_scale(scale: Tensor, out_channels: int) -> Tensor:
    """Return ``scale`` as detached float32, shape (out_channels,).

    Raises:
        CompressionError: The shape differs, or a scale is not a value of ``quant.grid``.
        NumericalError: A scale is not finite.
    """
    if tuple(scale.shape) != (out_channels,):
        raise CompressionError(
            f"The scale has shape {tuple(scale.shape)}; allowed: one value per output channel, ({out_channels},)"
        )
    scale = scale.detach().to(torch.float32)
    finite = bool(torch.isfinite(scale).all())
    if not finite or not bool((scale >= SMALLEST_SCALE).all()):
        raise (CompressionError if finite else NumericalError)(
            f"The scale has values from {float(scale.min())} to {float(scale.max())}; allowed: finite values of "
            f"at least {SMALLEST_SCALE:.1e}"
        )
    off = scale != nearest_on_grid(scale)
    if bool(off.any()):
        raise CompressionError(
            f"The scale has {int(off.sum())} values off the grid, such as {float(scale[off][0])}; allowed: "
            f"numbers 2^(e / {PER_OCTAVE}) with e in {MIN_EXPONENT}..{MAX_EXPONENT}"
        )
    return scale


def check_weight(weight: Tensor) -> Tensor:
    """Return ``weight`` as detached float32 of the same shape.

    Raises:
        CompressionError: The weight has no axis or no element.
        NumericalError: An element is not finite in float32.
    """
    if weight.ndim < 1 or weight.numel() == 0:
        raise CompressionError(
            f"Quantizing got a weight of shape {tuple(weight.shape)}; allowed: a non-empty tensor with axes"
        )
    values = weight.detach().to(torch.float32)
    bad = int(values.numel() - torch.isfinite(values).sum())
    if bad:
        raise NumericalError(
            f"Quantizing got a weight of shape {tuple(weight.shape)} with {bad} NaN or infinite values; "
            "allowed: finite values only"
        )
    return values
