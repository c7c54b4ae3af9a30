"""The poster's number format, small floats without a scale, and a tensor that is stored in it.

A value has one sign bit s, seven exponent bits e and m mantissa bits f, highest bit first:

    m = 8   | s | e6 e5 e4 e3 e2 e1 e0 | f7 f6 f5 f4 f3 f2 f1 f0 |    16 bits
    m = 4   | s | e6 e5 e4 e3 e2 e1 e0 | f3 f2 f1 f0 |                12 bits

    e > 0   (-1)^s x 2^(e - 63) x (1 + f / 2^m)      normal numbers
    e = 0   (-1)^s x 2^-62 x f / 2^m                 subnormal numbers and, with f = 0, zero

Every pattern is a finite number: there is no NaN and no infinity, and what is too large becomes the largest value.
Zero has a sign. Every value is an ordinary float32 number, so that decoding is exact.

The format is that of Brevitas' float quantizer with 7 exponent and m mantissa bits. The poster's authors
(github.com/ActiveVisionLab/ApproxConv, ``FPQuantize``) use no scale either, but count the leading one among the m bits:
their steps are twice as wide, at the same number of stored bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from basis.errors import CompressionError
from quant.formats import check_bits

EXPONENT_BITS = 7
BIAS = 2 ** (EXPONENT_BITS - 1) - 1
_FLOAT32_BIAS, _FLOAT32_MANTISSA = 127, 23


@dataclass(frozen=True)
class MinifloatFormat:
    """Floats of one sign, seven exponent and ``bits`` mantissa bits; see the module's docstring.

    Raises:
        CompressionError: ``bits`` is not an integer in 2..8.
    """

    bits: int
    scheme: ClassVar[str] = "minifloat"

    def __post_init__(self) -> None:
        check_bits("MinifloatFormat", self.bits)

    def __str__(self) -> str:
        return f"{self.bits} bits ({self.stored_bits} stored)"

    @property
    def stored_bits(self) -> int:
        """Bits of a value in a file: 16 with 8 mantissa bits, 12 with 4."""
        return 1 + EXPONENT_BITS + self.bits

    @property
    def largest(self) -> float:
        """The largest value; 8 mantissa bits: 3.7e19."""
        return float((2 - 2.0**-self.bits) * 2.0 ** (2**EXPONENT_BITS - 1 - BIAS))

    @property
    def smallest_normal(self) -> float:
        """The smallest value of full precision: 2^-62 = 2.2e-19."""
        return float(2.0 ** (1 - BIAS))

    @property
    def smallest(self) -> float:
        """The smallest value above zero, a subnormal one; 8 mantissa bits: 2^-70 = 8.5e-22."""
        return float(self.smallest_normal * 2.0**-self.bits)


@dataclass(frozen=True, eq=False)
class MinifloatTensor:
    """A tensor of minifloats.

    Args:
        integers: int16, any shape of one or more axes: each value's bit pattern, ``format.stored_bits`` bits read as
            two's complement, so that the sign of the integer is that of the value.
        format: The bit pattern.

    Attributes:
        scale: None: the exponent carries the magnitude.
        terms: None, for the same reason.

    Raises:
        CompressionError: The type, the shape or the range is not as above.
    """

    integers: Tensor
    format: MinifloatFormat
    scale: ClassVar[None] = None
    terms: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.integers.dtype != torch.int16 or self.integers.ndim < 1 or self.integers.numel() == 0:
            raise CompressionError(
                f"MinifloatTensor got integers of type {self.integers.dtype} and shape {tuple(self.integers.shape)}; "
                "allowed: a non-empty int16 tensor of one or more axes"
            )
        low, high = (int(bound) for bound in self.integers.aminmax())
        bound = 2 ** (self.format.stored_bits - 1)
        if low < -bound or high >= bound:
            raise CompressionError(
                f"MinifloatTensor got integers in {low}..{high}; allowed with {self.format.stored_bits} bits: "
                f"{-bound}..{bound - 1}"
            )

    def dequantize(self) -> Tensor:
        """Return the stored values, float32, shape of ``integers``, exact."""
        return decode(self.integers, self.format)

    def cpu(self) -> MinifloatTensor:
        """Return the same tensor on the CPU."""
        return MinifloatTensor(self.integers.cpu(), self.format)


def encode(values: Tensor, format: MinifloatFormat) -> Tensor:
    """Round to the nearest minifloats, ties to the even mantissa; larger values become the largest.

    Args:
        values: float32 or float64, finite, any shape.
        format: The bit pattern.

    Returns:
        int16 of the same shape, as in ``MinifloatTensor``.

    Example:
        >>> encode(torch.tensor([1.0, -1.0, 0.0]), MinifloatFormat(4))
        tensor([ 1008, -1040,     0], dtype=torch.int16)
    """
    size = values.abs()
    fraction, exponent = torch.frexp(size)  # size = fraction x 2^exponent, fraction in [1/2, 1)
    normal = size >= format.smallest_normal
    mantissa = torch.where(normal, fraction * 2 ** (format.bits + 1), size / format.smallest).round().to(torch.int64)
    # The mantissa holds the leading one, which counts as one more exponent; a carry out of it counts as the next one.
    magnitude = torch.where(normal, exponent.to(torch.int64) - 2 + BIAS, 0) * 2**format.bits + mantissa
    half = 2 ** (format.stored_bits - 1)
    pattern: Tensor = magnitude.clamp_max(half - 1) - half * torch.signbit(values).to(torch.int64)
    return pattern.to(torch.int16)


def decode(integers: Tensor, format: MinifloatFormat) -> Tensor:
    """Decode bit patterns to values; the inverse of ``encode``.

    Args:
        integers: int16, any shape, as in ``MinifloatTensor``.
        format: The bit pattern.

    Returns:
        float32 of the same shape, exact.
    """
    magnitude = integers.to(torch.int32) & (2 ** (format.stored_bits - 1) - 1)
    widened = magnitude << (_FLOAT32_MANTISSA - format.bits)
    normal = (widened + ((_FLOAT32_BIAS - BIAS) << _FLOAT32_MANTISSA)).view(torch.float32)
    size = torch.where(magnitude >= 2**format.bits, normal, magnitude.to(torch.float32) * format.smallest)
    values: Tensor = torch.where(integers < 0, -size, size)
    return values


def nearest(values: Tensor, format: MinifloatFormat) -> Tensor:
    """Round to the nearest minifloat values; same type and shape."""
    return decode(encode(values, format), format).to(values.dtype)
