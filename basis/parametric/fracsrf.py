"""FracSRF: a slice is ``a g_vx(x) g_vy(y)``, with derivatives of fractional order of a Gaussian.

The taps of an axis are spread from -2 to 2 deviations. ``g_n`` is the derivative of order n of ``exp(-x^2 / 2)``, which
is ``(-1)^n He_n(x) exp(-x^2 / 2)`` with the Hermite polynomial ``He_n``, divided by its norm over the taps. For a
fractional order v, ``g_v`` is the linear interpolation between the two neighbouring integer orders.

Norms, and the deviation of the Gaussian, only rescale ``g_n``. Amplitude and interpolation absorb any such factor, so
the kernels are those of the authors for every deviation. None is fitted or stored.
"""

from decimal import Context, Decimal, localcontext
from functools import cache

import torch
from torch import Tensor

from basis.families import DIGITS
from basis.least_squares import Size2d
from basis.parametric.families import LARGEST_ORDER

_STEPS = 2**32
"""Steps in one unit of the table."""
_CANDIDATES_PER_ORDER = 4


def profiles(shape: Tensor, kernel: Size2d) -> tuple[Tensor, Tensor]:
    """Return ``g_vy`` at the rows and ``g_vx`` at the columns.

    Args:
        shape: (2, S), float64: vx and vy.
        kernel: Taps (kh, kw).

    Returns:
        (kh, S) and (kw, S), float64.

    Source:
        Saldanha et al., "Frequency Learning for Structured CNN Filters with Gaussian Fractional Derivatives", BMVC
        2021, arXiv 2111.06660.
    """
    return _interpolated(shape[1], kernel[0])[0], _interpolated(shape[0], kernel[1])[0]


def profiles_and_derivatives(shape: Tensor, kernel: Size2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``profiles``, and their derivatives by the two orders: (2, kh, S) and (2, kw, S)."""
    (p, by_vy), (q, by_vx) = _interpolated(shape[1], kernel[0]), _interpolated(shape[0], kernel[1])
    by_row, by_column = [torch.zeros_like(by_vy), by_vy], [by_vx, torch.zeros_like(by_vx)]
    return p, q, torch.stack(by_row), torch.stack(by_column)


def candidates(kernel: Size2d) -> Tensor:
    """Return the orders from which a fit starts, a regular grid: (2, N), float64."""
    orders = torch.arange(LARGEST_ORDER * _CANDIDATES_PER_ORDER + 1, dtype=torch.float64) / _CANDIDATES_PER_ORDER
    return torch.cartesian_prod(orders, orders).T


def derivative_table(size: int) -> Tensor:
    """Return ``g_0`` to ``g_9`` at the taps, rounded to the nearest multiples of 2^-32: (10, size), float64.

    It is computed with 100 decimal digits, so every machine has the same values. A single tap has the value 1.

    Example:
        >>> derivative_table(3)[1]
        tensor([ 0.7071,  0.0000, -0.7071], dtype=torch.float64)
    """
    exact = torch.tensor([[float(value) for value in row] for row in _table(size)], dtype=torch.float64)
    return torch.round(exact * _STEPS) / _STEPS


@cache
def _table(size: int) -> tuple[tuple[Decimal, ...], ...]:
    with localcontext(Context(prec=DIGITS)):
        if size == 1:
            return ((Decimal(1),),) * (LARGEST_ORDER + 1)
        taps = [Decimal(4) * i / (size - 1) - 2 for i in range(size)]
        columns = [_gaussian_derivatives(x) for x in taps]
        rows = [[column[n] for column in columns] for n in range(LARGEST_ORDER + 1)]
        lengths = [sum((value * value for value in row), Decimal(0)).sqrt() for row in rows]
        return tuple(tuple(value / length for value in row) for row, length in zip(rows, lengths, strict=True))


def _gaussian_derivatives(x: Decimal) -> list[Decimal]:
    """Return the derivatives 0 to 9 of exp(-x^2 / 2), by the recurrence g_(n+1) = -x g_n - n g_(n-1)."""
    found = [(-x * x / 2).exp()]
    found.append(-x * found[0])
    for n in range(1, LARGEST_ORDER):
        found.append(-x * found[n] - n * found[n - 1])
    return found


def _interpolated(orders: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return ``g_v`` and its derivative by v, each (size, S)."""
    table = derivative_table(size).T.contiguous().to(orders.device)
    lower = orders.floor().clamp_max(LARGEST_ORDER - 1)
    low, step = table[:, lower.long()], table.diff(dim=1)[:, lower.long()]
    return low + (orders - lower) * step, step
