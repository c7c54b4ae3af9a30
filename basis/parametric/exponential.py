"""The exponential function in float64 by a fixed sequence of operations: the same bits on every machine.

    exp(z) = 2^n p(z - n ln 2),   n = z / ln 2 to the nearest integer,   p(t) = 1 + t / 1! + ... + t^13 / 13!

``ln 2`` is the sum of two float64 numbers, of which the first has so few bits that its products with ``n`` are exact.
The functions ``exp`` of libraries differ in their last bits.
"""

import math
from typing import Final

import torch
from torch import Tensor

LEAST: Final = -700.0
"""Least argument; the exponential of any smaller number is that of this one, a normal number."""
_LN2_HIGH: Final = float.fromhex("0x1.62e42feep-1")
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_PER_LN2: Final = float.fromhex("0x1.71547652b82fep+0")
_FACTORS: Final = tuple(1 / math.factorial(k) for k in range(13, -1, -1))
_FRACTION_BITS, _EXPONENT_BIAS = 52, 1023


def portable_exp(z: Tensor) -> Tensor:
    """Return exp(z) for float64 numbers of at most 0, any shape.

    The error is at most 2 units in the last place. Each operation is rounded once; none is fused.

    Example:
        >>> float(portable_exp(torch.tensor(-1.0, dtype=torch.float64)))
        0.36787944117144233
    """
    z = z.clamp_min(LEAST)
    n = (z * _PER_LN2).round()
    t = (z - n * _LN2_HIGH) - n * _LN2_LOW
    total = torch.full_like(t, _FACTORS[0])
    for factor in _FACTORS[1:]:
        total *= t
        total += factor
    power = (n.to(torch.int64) + _EXPONENT_BIAS) << _FRACTION_BITS
    return total * power.view(torch.float64)
