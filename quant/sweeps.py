"""Two sweeps over the columns of a weight that choose its stored values under a quadratic error, all rows at once.

Both take one problem per group of a convolution, as transposed matrices (G, F, O), so that a column of a weight is
contiguous. They work in blocks of columns. Inside a block, each column updates the next ones at once. All later columns
are updated by one matrix product per block.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from basis import progress
from basis.cholesky import damped_cholesky
from basis.errors import NumericalError

# Columns of a block. Small enough that updating it from one column is too little work for several threads.
_BLOCK = 32
_SOLVED = 256  # columns of the largest triangular matrix that is inverted at once


def compensated_rounding(columns: Tensor, nearest: Callable[[Tensor], Tensor], root: Tensor) -> tuple[Tensor, Tensor]:
    """Round column after column and update the later columns to compensate for each error.

    Args:
        columns: The weights, transposed: (G, F, O), float64, most important column first.
        nearest: Rounds a column, (G, O), float64, to the nearest storable values, evenly spaced or not.
        root: (G, F, F), from ``damped_hessian``.

    Returns:
        The rounded values, (G, F, O), float64, and the error ``(w - q) H (w - q)^T`` of each row, (G, O).

    Source:
        GPTQ (Frantar et al. 2023, arXiv 2210.17323), algorithm 1.
    """
    remaining, rounded, errors = columns.clone(), torch.empty_like(columns), torch.empty_like(columns)
    diagonal = root.diagonal(dim1=1, dim2=2)
    feedback = root / diagonal[:, :, None]
    for start in range(0, remaining.shape[1], _BLOCK):
        block, later = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        _compensate_block(remaining[:, block], nearest, feedback[:, block, block], rounded[:, block], errors[:, block])
        remaining[:, later].baddbmm_(feedback[:, block, later].mT, errors[:, block], alpha=-1)
        progress.step()
    # The error that remains of each column after the optimal update of all later ones adds up to the whole error
    # (paper, equation 2).
    return rounded, (diagonal[:, None] ** -2 @ errors.square_()).squeeze(1)


def _compensate_block(
    remaining: Tensor, nearest: Callable[[Tensor], Tensor], feedback: Tensor, rounded: Tensor, errors: Tensor
) -> None:
    """Round the columns of one block into ``rounded`` and ``errors``, and update ``remaining``, all in place."""
    for i in range(remaining.shape[1]):
        rounded[:, i] = nearest(remaining[:, i])
        torch.sub(remaining[:, i], rounded[:, i], out=errors[:, i])
        remaining[:, i + 1 :].addcmul_(feedback[:, i, i + 1 :, None], errors[:, i, None], value=-1)


def by_falling_diagonal(matrices: Tensor, units: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Order the columns of symmetric matrices by importance, which is the diagonal in the units of the columns.

    Args:
        matrices: (G, F, F).
        units: Unit of each column, (F,); None if all are alike.

    Returns:
        The order, int64, (G, F), and the matrices with rows and columns in this order.
    """
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    importance = diagonal if units is None else diagonal * units.square()
    order = importance.argsort(dim=1, descending=True, stable=True)
    rows = matrices.gather(1, order[:, :, None].expand_as(matrices))
    return order, rows.gather(2, order[:, None].expand_as(matrices))


def damped_hessian(grams: Tensor, damping: float, *, largest: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scale Gram matrices to a mean diagonal of one, add damping, and factor their inverse.

    Args:
        grams: See ``inverse_root``, like the other arguments.
        damping: At most ``largest``.
        largest: See ``inverse_root``.

    Returns:
        The damped Hessians H, (G, F, F), and the upper Cholesky factors of their inverses, (G, F, F). Row j of a factor
        determines how the error of column j is best distributed over the later columns.

    Raises:
        NumericalError: A matrix is not positive semi-definite.
    """
    factor, damped = _factored(grams, damping, largest)
    return damped.flip(1, 2), _inverted(factor)


def inverse_root(grams: Tensor, damping: float, *, largest: float = 1.0) -> Tensor:
    """Return the upper Cholesky factors of the inverses of damped Hessians, (G, F, F); see ``damped_hessian``.

    Inputs that are always zero keep the damping alone, so their weights are rounded to nearest. A matrix that is not
    positive definite in float64 gets ten times the damping until it is; the other groups keep theirs.

    Args:
        grams: (G, F, F), float64, symmetric.
        damping: Share of the mean diagonal, zero or more.
        largest: Largest damping of a matrix that is not positive definite.

    Raises:
        NumericalError: A matrix is not positive semi-definite.
    """
    return _inverted(_factored(grams, damping, largest)[0])


def _factored(grams: Tensor, damping: float, largest: float) -> tuple[Tensor, Tensor]:
    """Return Cholesky factors and damped Hessians, with rows and columns in reverse order."""
    # A large layer has 170 MB in each matrix: none is kept for longer than it is needed.
    ones = grams.new_ones(len(grams), 1, 1)
    found = damped_cholesky(_unit(grams).flip(1, 2), ones, damping, smallest=1e-6, largest=largest, per_matrix=True)
    if found is None:
        unit = _unit(grams)
        lowest = float(torch.linalg.eigvalsh(unit)[:, 0].min()) if bool(torch.isfinite(unit).all()) else math.nan
        raise NumericalError(
            f"gptq got a Gram matrix with eigenvalues from {lowest:.1e} times the mean "
            "diagonal; allowed: a positive semi-definite matrix"
        )
    return found


def _unit(grams: Tensor) -> Tensor:
    """Scale Gram matrices to a mean diagonal of one; those without one become the identity."""
    mean = grams.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    return torch.where(mean > 0, grams / mean.clamp_min(torch.finfo(grams.dtype).tiny), identity)


def _inverted(factor: Tensor) -> Tensor:
    """Return the inverses R^-1 for ``H = R R^T`` with R upper triangular: R is lower triangular in reverse order.

    So neither the inverse of H itself nor a second factorization is needed.
    """
    upper = factor.flip(1, 2)
    _invert_triangular(upper)
    return upper


def _invert_triangular(upper: Tensor) -> None:
    """Invert upper triangular matrices in place, by halves: matrix products are faster than solving for an identity."""
    size = upper.shape[1]
    if size <= _SOLVED:
        identity = torch.eye(size, dtype=upper.dtype, device=upper.device)
        upper.copy_(torch.linalg.solve_triangular(upper, identity.expand_as(upper), upper=True))
        return
    first, second = slice(size // 2), slice(size // 2, None)
    _invert_triangular(upper[:, first, first])
    _invert_triangular(upper[:, second, second])
    corner = upper[:, first, second]
    corner.copy_(-(upper[:, first, first] @ corner) @ upper[:, second, second])


def descend(
    integers: Tensor, slope: Tensor, scale: Tensor, hessian: Tensor, qmax: int, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Set one integer at a time to its best value given all others, so that the error never grows.

    Args:
        integers: Start, (G, F, O), float64, transposed like the weights.
        slope: ``H (W - Q)^T`` at the start, (G, F, O), float64.
        scale: (G, O), float64.
        hessian: H, (G, F, F), float64, symmetric with a positive diagonal. The error of a group is
            ``tr((W - Q) H (W - Q)^T)``.
        qmax: Largest integer.
        sweeps: Largest number of sweeps over all columns.

    Returns:
        Integers and slope at the end, both (G, F, O).
    """
    integers, slope = integers.clone(), slope.clone()
    for _ in range(sweeps):
        before = integers.clone()
        for start in range(0, slope.shape[1], _BLOCK):
            _descend_block(slice(start, start + _BLOCK), integers, slope, scale, hessian, qmax)
            progress.step()
        if torch.equal(before, integers):
            break
    return integers, slope


def _descend_block(block: slice, integers: Tensor, slope: Tensor, scale: Tensor, hessian: Tensor, qmax: int) -> None:
    """Sweep once over a block's columns; keeps ``slope`` at H times the current error, in place."""
    block_hessian, block_slope, columns = hessian[:, block, block], slope[:, block], integers[:, block]
    moves = torch.empty_like(block_slope)
    for i in range(block_slope.shape[1]):
        best = (columns[:, i] + block_slope[:, i] / (block_hessian[:, i, i, None] * scale)).round_().clamp_(-qmax, qmax)
        torch.mul(best - columns[:, i], scale, out=moves[:, i])
        columns[:, i] = best
        block_slope.addcmul_(block_hessian[:, i, :, None], moves[:, i, None], value=-1)
    for outside in (slice(block.start), slice(block.stop, None)):
        slope[:, outside].baddbmm_(hessian[:, outside, block], moves, alpha=-1)
