"""Fit a filter by a series in the least-squares sense, and evaluate the series again."""

from collections.abc import Iterator

import torch
from torch import Tensor

from basis.errors import CompressionError, NumericalError
from basis.series import basis_matrix, portable_basis_matrix

Size2d = tuple[int, int]

# Slices evaluated at once. They and their kernels fit in a core's cache, which is several times faster.
_SLICES_AT_ONCE = 4096


def fit(weight: Tensor, basis: str, order: Size2d) -> Tensor:
    """Find the coefficients A that minimise ``||W - Bh A Bw^T||`` for every slice W of a weight.

    The columns of Bh and Bw are orthonormal, so the minimum is ``A = Bh^T W Bw``, computed in float64. The sum of
    squares of the coefficients is at most the sum of squares of the weight, and equal to it at full order.

    Args:
        weight: Kernels, shape (..., kh, kw), floating point.
        basis: A name in ``basis.families.BASES``.
        order: Terms kept per axis, (nh, nw), each at most the kernel's size.

    Returns:
        Coefficients of shape (..., nh, nw), with the dtype and device of ``weight``.

    Raises:
        CompressionError: The weight has fewer than two axes or is not real floating point, or the order does not fit
            the kernel.
        NumericalError: A value of the weight is not finite.

    Source:
        Costain and Prisacariu, BMVC 2022 (the authors minimise the same error by 600 steps of Adam).

    Example:
        >>> fit(torch.ones(8, 4, 3, 3), "cosine", (2, 2)).shape
        torch.Size([8, 4, 2, 2])
    """
    if weight.dim() < 2:
        raise CompressionError(f"fit: weight of shape {tuple(weight.shape)}; allowed: (..., kh, kw)")
    if not weight.is_floating_point():
        raise CompressionError(f"fit: the weight's dtype is {weight.dtype}; allowed: a real floating-point dtype")
    if not _is_finite(weight):
        raise NumericalError("fit: the weight holds NaN or infinite values; allowed: finite numbers")
    height, width = weight.shape[-2:]
    basis_h = basis_matrix(basis, height, order[0]).to(weight.device)
    basis_w = basis_matrix(basis, width, order[1]).to(weight.device)
    return _coefficients(weight, torch.kron(basis_h, basis_w), order)


def reconstruct(coefficients: Tensor, basis: str, kernel_size: Size2d, *, portable: bool = False) -> Tensor:
    """Evaluate the series on the kernel's grid: ``W = Bh A Bw^T``, the inverse of ``fit``.

    Sums run in a fixed order, terms of the rows first, so the result does not depend on a BLAS library.

    Args:
        coefficients: Shape (..., nh, nw), floating point.
        basis: A name in ``basis.families.BASES``.
        kernel_size: Taps per axis, (kh, kw), each at least the order.
        portable: Evaluate with ``portable_basis_matrix``, so that every machine gives the same kernels, bit for bit.

    Returns:
        Kernels of shape (..., kh, kw), with the dtype and device of ``coefficients``; computed in float64.

    Raises:
        CompressionError: The order does not fit the kernel.

    Source:
        Costain and Prisacariu, BMVC 2022.

    Example:
        >>> reconstruct(torch.ones(8, 4, 2, 2), "cosine", (3, 3)).shape
        torch.Size([8, 4, 3, 3])
    """
    order_h, order_w = coefficients.shape[-2:]
    matrix = portable_basis_matrix if portable else basis_matrix
    basis_h = matrix(basis, kernel_size[0], order_h).to(coefficients.device)
    basis_w = matrix(basis, kernel_size[1], order_w).to(coefficients.device)
    flat = coefficients.detach().reshape(-1, order_h, order_w)
    kernels = [_evaluate(block, basis_h, basis_w) for block in flat.split(_SLICES_AT_ONCE)]
    return torch.cat(kernels).reshape(*coefficients.shape[:-2], *kernel_size)


def _evaluate(coefficients: Tensor, basis_h: Tensor, basis_w: Tensor) -> Tensor:
    """Compute ``W = Bh A Bw^T`` in float64 for slices A, (S, nh, nw): first along the rows, then the columns."""
    # The slices run along the last axis, where operations on single values are fast.
    terms = coefficients.permute(1, 2, 0).to(torch.float64, memory_format=torch.contiguous_format)
    rows = _sum_in_order(basis_h[:, a, None, None] * terms[a] for a in range(len(terms)))
    kernels = _sum_in_order(basis_w[:, b, None] * rows[:, b, None] for b in range(terms.shape[1]))
    return kernels.to(coefficients.dtype).permute(2, 0, 1)


def _sum_in_order(products: Iterator[Tensor]) -> Tensor:
    """Add products from first to last, each rounded before it is added: no fused operation, no BLAS."""
    total = next(products)
    for product in products:
        total += product
    return total


def _is_finite(values: Tensor) -> bool:
    """Return True if no value is NaN or infinite; the extremes take a tenth of the time of ``isfinite``."""
    return values.numel() == 0 or all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values.detach()))


def _coefficients(weight: Tensor, operator: Tensor, order: Size2d) -> Tensor:
    """Compute ``Bh^T W Bw`` in float64, as one product with the operator ``kron(Bh, Bw)``."""
    flat = weight.detach().reshape(-1, operator.shape[0]).to(torch.float64)
    # The slices run along the columns: BLAS takes several times longer with thousands of rows and few columns.
    return (operator.T @ flat.T).to(weight.dtype).T.reshape(*weight.shape[:-2], *order).contiguous()
