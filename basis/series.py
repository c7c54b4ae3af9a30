"""Orthonormal cosine and Chebyshev basis matrices: the first terms of a series, sampled on a kernel's grid.

Sampled terms are nearly dependent at high orders: as coefficients, they would magnify the error of rounding. The terms
are therefore orthonormalized in their order. Column i stays a combination of the terms 0 to i, so any number of columns
spans the same filters as that number of terms.
"""

from decimal import Context, Decimal, localcontext
from functools import cache
from operator import mul

import torch
from torch import Tensor

from basis.errors import CompressionError
from basis.families import BASES, DIGITS

_Columns = tuple[tuple[Decimal, ...], ...]
# Steps in one unit of the portable matrix.
_PORTABLE_STEPS = 2**32
# Unit of a stored value. All errors are smaller, so zeros by symmetry are exact; adding 0 removes their sign.
_KEPT = Decimal("1e-40")


def basis_matrix(basis: str, size: int, order: int) -> Tensor:
    """Return an orthonormal basis of the first terms of a series, sampled at the taps of a kernel.

    The columns are the sampled terms after Gram-Schmidt in their order, ``terms = B R`` with R upper triangular and its
    diagonal positive. They are computed with 100 decimal digits, so every machine has the same matrix.

    Args:
        basis: A name in ``basis.families.BASES``.
        size: Taps of the kernel along this axis, at least 1.
        order: Terms kept, 1 to ``size``.

    Returns:
        float64 tensor B of shape (size, order), ``B^T B = I``. Column i is in the span of the terms 0 to i.

    Raises:
        CompressionError: The basis is unknown, or the order is outside 1..size.

    Source:
        The terms: Costain and Prisacariu, "Approximating Continuous Convolutions for Deep Network Compression", BMVC
        2022.

    Example:
        >>> basis_matrix("chebyshev", 3, 2)
        tensor([[ 0.5774, -0.7071],
                [ 0.5774,  0.0000],
                [ 0.5774,  0.7071]], dtype=torch.float64)
    """
    rows = zip(*_checked_columns(basis, size, order), strict=True)
    return torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)


def portable_basis_matrix(basis: str, size: int, order: int) -> Tensor:
    """Return ``basis_matrix`` rounded to the nearest multiples of 2^-32: (size, order), float64.

    A reader that computes the basis with fewer digits gets the same values after this rounding. Arguments, result and
    errors are those of ``basis_matrix``.

    Example:
        >>> int(portable_basis_matrix("cosine", 3, 2)[0, 0] * 2**32)
        2479700525
    """
    return torch.round(basis_matrix(basis, size, order) * _PORTABLE_STEPS) / _PORTABLE_STEPS


def _checked_columns(basis: str, size: int, order: int) -> _Columns:
    if basis not in BASES:
        raise CompressionError(f"basis_matrix: basis {basis!r} is unknown; allowed: {', '.join(BASES)}")
    if size < 1 or not 1 <= order <= size:
        raise CompressionError(
            f"basis_matrix: order {order} for a kernel of {size} taps; allowed: 1 to the kernel size"
        )
    return _orthonormal_columns(basis, size, order)


@cache
def _orthonormal_columns(basis: str, size: int, order: int) -> _Columns:
    """Orthonormalize the sampled terms by modified Gram-Schmidt."""
    with localcontext(Context(prec=DIGITS)):
        found: list[list[Decimal]] = []
        for column in _sampled_terms(basis, size, order):
            for other in found:
                share = _dot(column, other)
                column = [value - share * part for value, part in zip(column, other, strict=True)]
            length = _dot(column, column).sqrt()
            found.append([value / length for value in column])
        return tuple(tuple(value.quantize(_KEPT) + 0 for value in column) for column in found)


def _sampled_terms(basis: str, size: int, order: int) -> list[list[Decimal]]:
    """Sample the terms at the taps: ``order`` columns of ``size`` values."""
    family = BASES[basis]
    # One tap has no extent: it sits in the middle of the interval.
    shares = [Decimal(i) / (size - 1) for i in range(size)] if size > 1 else [Decimal("0.5")]
    rows = [family.terms(family.start + (family.end - family.start) * share, order) for share in shares]
    return [list(column) for column in zip(*rows, strict=True)]


def _dot(left: list[Decimal], right: list[Decimal]) -> Decimal:
    return sum(map(mul, left, right), Decimal(0))
