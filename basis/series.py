"""Cosine and Chebyshev basis matrices: the first terms of a series, sampled on a kernel's grid."""

import torch
from torch import Tensor

from basis.errors import CompressionError
from basis.families import BASES


def basis_matrix(basis: str, size: int, order: int) -> Tensor:
    """Sample the first terms of a series at the taps of a kernel.

    Args:
        basis: A name in ``basis.families.BASES``.
        size: Taps of the kernel along this axis, at least 1.
        order: Terms kept, 1 to ``size``.

    Returns:
        float64 tensor of shape (size, order): column i is the i-th function on the kernel's grid.

    Raises:
        CompressionError: The basis is unknown, or the order is outside 1..size.

    Source:
        Costain and Prisacariu, "Approximating Continuous Convolutions for Deep Network Compression", BMVC 2022.

    Example:
        >>> basis_matrix("chebyshev", 3, 2)
        tensor([[ 1., -1.],
                [ 1.,  0.],
                [ 1.,  1.]], dtype=torch.float64)
    """
    if basis not in BASES:
        raise CompressionError(f"basis_matrix: basis {basis!r} is unknown; allowed: {', '.join(BASES)}")
    if size < 1 or not 1 <= order <= size:
        raise CompressionError(
            f"basis_matrix: order {order} for a kernel of {size} taps; allowed: 1 to the kernel size"
        )
    family = BASES[basis]
    # One tap has no extent: it sits in the middle of the interval, where linspace would choose the start.
    middle = torch.tensor([(family.start + family.end) / 2], dtype=torch.float64)
    grid = middle if size == 1 else torch.linspace(family.start, family.end, size, dtype=torch.float64)
    return family.terms(grid, order)


def portable_basis_matrix(basis: str, size: int, order: int) -> Tensor:
    """``basis_matrix`` rounded to the nearest multiples of 2^-32: the same values on every machine.

    Cosines of different libraries differ in their last digit, around 2^-53; on this grid they are equal. Arguments,
    result and errors are those of ``basis_matrix``.

    Example:
        >>> portable_basis_matrix("cosine", 3, 2)[0, 1] * 2**32
        tensor(3474701533., dtype=torch.float64)
    """
    return torch.round(basis_matrix(basis, size, order) * 2.0**32) / 2.0**32
