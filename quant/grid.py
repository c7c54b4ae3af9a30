"""The grid of steps and scales: powers of two with exponents in sixteenths, float32, the same on every machine.

A step is stored as its exponent e, an integer; its value is ``2^(e / 16)``. Neighbours differ by 4.4 %.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

PER_OCTAVE: Final = 16
# Sixteenths of an octave within which a value counts as a grid value in ``ceiling_exponents``.
_ROUNDING: Final = 1e-4
MIN_EXPONENT, MAX_EXPONENT = -100 * PER_OCTAVE, 100 * PER_OCTAVE

# 2^(k / 16) for k = 0..15, as the nearest float32 numbers.
_OCTAVE: Final = (
    1.0,
    1.0442737340927124,
    1.0905077457427979,
    1.1387885808944702,
    1.1892070770263672,
    1.2418577671051025,
    1.2968395948410034,
    1.3542555570602417,
    1.4142135381698608,
    1.4768261909484863,
    1.5422108173370361,
    1.610490322113037,
    1.6817928552627563,
    1.7562521696090698,
    1.8340080976486206,
    1.9152065515518188,
)


def grid_values(exponents: Tensor) -> Tensor:
    """Return ``2^(e / 16)``: float32, the shape of the exponents, the same bits on every machine.

    Args:
        exponents: Integers in ``MIN_EXPONENT..MAX_EXPONENT``, any shape.

    Example:
        >>> grid_values(torch.tensor([0, 16, -24]))
        tensor([1.0000, 2.0000, 0.3536])
    """
    whole = exponents.to(torch.int32)
    octaves = torch.div(whole, PER_OCTAVE, rounding_mode="floor")
    bits = torch.tensor(_OCTAVE, dtype=torch.float32, device=whole.device).view(torch.int32)[whole % PER_OCTAVE]
    # float32 keeps its exponent from bit 23 on; the values of the grid are normal numbers.
    return (bits + octaves * 2**23).view(torch.float32)


def grid_exponents(values: Tensor) -> Tensor:
    """Return the exponents of the grid values nearest to positive values, on a logarithmic scale: int16, same shape.

    Values outside the grid get its first or last exponent.
    """
    return on_grid(values.to(torch.float64).log2() * PER_OCTAVE)


def on_grid(exponents: Tensor) -> Tensor:
    """Round exponents to the grid: int16, same shape. Those outside it become its first or last one."""
    return exponents.round().clamp(MIN_EXPONENT, MAX_EXPONENT).to(torch.int16)


def step_exponent(step: float) -> int:
    """Return the exponent of the largest step of the grid that is at most ``step``; 0 for a step of 0."""
    if step <= 0:
        return 0
    return min(max(math.floor(PER_OCTAVE * math.log2(step)), MIN_EXPONENT), MAX_EXPONENT)


def ceiling_exponents(values: Tensor) -> Tensor:
    """Return the exponents of the least grid values that are not below positive values: int16, same shape.

    A value that float32 rounding has put at most 4e-6 above a grid value keeps that one. Values outside the grid get
    its first or last exponent.
    """
    return on_grid((values.to(torch.float64).log2() * PER_OCTAVE - _ROUNDING).ceil())


def nearest_on_grid(values: Tensor) -> Tensor:
    """Return the grid values nearest to positive values, on a logarithmic scale: float32, same shape.

    Values that are not finite stay as they are; zero gets the least grid value.
    """
    values = values.to(torch.float32)
    return torch.where(torch.isfinite(values), grid_values(grid_exponents(values)), values)
