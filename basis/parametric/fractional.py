"""Fractional: a slice is the Grünwald-Letnikov derivative of order a along x of a Gaussian, times an amplitude.

    f(x, y) = A / N  exp(-u (y - y0)^2)  sum_j w_j exp(-u (x - j / 2 - x0)^2),   j = 0..14
    w_0 = 1,  w_j = w_(j-1) (j - 1 - a) / j

The w_j are the signed binomial coefficients (-1)^j C(a, j). The taps are one apart, with 0 in the middle of the kernel.
``N`` is the norm over the taps, so ``A`` is the norm of the slice. It absorbs the factor 2^a of the step 0.5. The
inverse ``u = 1 / r`` of the width is stored: rounding it changes narrow kernels less than rounding r.
"""

from typing import Final

import torch
from torch import Tensor

from basis.least_squares import Size2d
from basis.parametric.exponential import portable_exp

TERMS: Final = 15
_LEAST_SQUARE: Final = 2.0**-200
"""Added to a squared norm, so that no kernel is divided by zero."""
_STARTS: Final = (
    (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
    (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
    (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
)
"""Values of a, x0, y0 and u from which a fit starts."""


def profiles(shape: Tensor, kernel: Size2d) -> tuple[Tensor, Tensor]:
    """Return the two factors of a slice of norm 1.

    Args:
        shape: (4, S), float64: a, x0, y0 and u.
        kernel: Taps (kh, kw).

    Returns:
        The Gaussian at the rows, (kh, S), and the derivative at the columns, (kw, S), float64.

    Source:
        Zamora et al., "Convolutional Filter Approximation Using Fractional Calculus", ICCVW 2021. The constants are
        those of the code of Costain and Prisacariu, BMVC 2022.
    """
    order, x0, y0, inverse = shape
    rows = _gaussians(_row_places(kernel[0], shape) - y0, inverse)
    columns = _shifted_sum(_weights(order), _gaussians(_column_places(kernel[1], shape) - x0, inverse), kernel[1])
    return rows / _norm(rows), columns / _norm(columns)


def profiles_and_derivatives(shape: Tensor, kernel: Size2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``profiles``, and their derivatives by the four parameters: (4, kh, S) and (4, kw, S)."""
    order, x0, y0, inverse = shape
    y, x = _row_places(kernel[0], shape) - y0, _column_places(kernel[1], shape) - x0
    rows, terms, weights = _gaussians(y, inverse), _gaussians(x, inverse), _weights(order)
    columns, none = _shifted_sum(weights, terms, kernel[1]), torch.zeros_like(rows)
    slopes = terms * x
    by_row = [none, none, rows * (2 * inverse * y), -rows * (y * y)]
    by_column = [
        _shifted_sum(_weight_derivatives(order, weights), terms, kernel[1]),
        2 * inverse * _shifted_sum(weights, slopes, kernel[1]),
        torch.zeros_like(columns),
        -_shifted_sum(weights, slopes * x, kernel[1]),
    ]
    (p, by_p), (q, by_q) = _normalized(rows, by_row), _normalized(columns, by_column)
    return p, q, by_p, by_q


def candidates(kernel: Size2d) -> Tensor:
    """Return the parameters from which a fit starts, a regular grid: (4, N), float64."""
    del kernel  # every size has the same
    return torch.cartesian_prod(*(torch.tensor(starts, dtype=torch.float64) for starts in _STARTS)).T


def _row_places(size: int, like: Tensor) -> Tensor:
    """Return the places of the taps, (size, 1)."""
    return (torch.arange(size, dtype=torch.float64, device=like.device) - (size - 1) / 2)[:, None]


def _column_places(size: int, like: Tensor) -> Tensor:
    """Return the places x - j / 2 of all taps and terms, in ascending order: (2 size + 13, 1)."""
    count = 2 * (size - 1) + TERMS
    halves = torch.arange(count, dtype=torch.float64, device=like.device) - (TERMS - 1)
    return (halves / 2 - (size - 1) / 2)[:, None]


def _gaussians(distances: Tensor, inverse: Tensor) -> Tensor:
    return portable_exp(-(distances * distances) * inverse)


def _weights(order: Tensor) -> list[Tensor]:
    """Return w_0 to w_14, each (S,)."""
    found = [torch.ones_like(order)]
    for j in range(1, TERMS):
        found.append(found[-1] * ((j - 1) - order) / j)
    return found


def _weight_derivatives(order: Tensor, weights: list[Tensor]) -> list[Tensor]:
    found = [torch.zeros_like(order)]
    for j in range(1, TERMS):
        found.append((found[-1] * ((j - 1) - order) - weights[j - 1]) / j)
    return found


def _shifted_sum(weights: list[Tensor], values: Tensor, size: int) -> Tensor:
    """Sum w_j times the value of tap t and term j, from j = 0 on: (size, S)."""
    last = TERMS - 1
    total = weights[0] * values[last::2]
    for j in range(1, TERMS):
        total += weights[j] * values[last - j : last - j + 2 * size - 1 : 2]
    return total


def _norm(values: Tensor) -> Tensor:
    """Return the norm over the taps, whose squares are added from first to last: (S,)."""
    squares = values * values
    total = squares[0].clone()
    for square in squares[1:]:
        total += square
    return (total + _LEAST_SQUARE).sqrt()


def _normalized(values: Tensor, changes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return ``values / norm`` and its derivatives, from the derivatives of the values."""
    norm = _norm(values)
    unit = values / norm
    return unit, torch.stack([(change - unit * (unit * change).sum(0)) / norm for change in changes])
