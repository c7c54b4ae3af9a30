"""Two sweeps over the columns of a weight that choose its stored values under a quadratic error, all rows at once.

Both work on transposed matrices, (F, O), so that a column of the weight is contiguous, and in blocks of columns: inside
a block every column corrects the next ones at once, all later columns are corrected by one matrix product a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Small enough that one column's update of a block is not worth several threads, which would wait for one another.
_BLOCK = 32


def compensated_rounding(columns: Tensor, nearest: Callable[[Tensor], Tensor], root: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds column after column and lets the later ones make up for each error (GPTQ, arXiv 2210.17323, algorithm 1).

    Args:
        columns: the weight, transposed: (F, O) float64, most important column first.
        nearest: gives for a column, (O,) float64, the nearest values that can be stored, evenly spaced or not.
        root: (F, F) from `inverse_root`.

    Returns:
        the rounded values, (F, O) float64, and the error (w - q) H (w - q)^T of each row, (O,).
    """
    rest, rounded, errors = columns.clone(), torch.empty_like(columns), torch.empty_like(columns)
    feedback = root / root.diagonal()[:, None]
    for start in range(0, len(rest), _BLOCK):
        block = slice(start, start + _BLOCK)
        _compensate_block(rest[block], nearest, feedback[block, block], rounded[block], errors[block])
        rest[start + _BLOCK :].addmm_(feedback[block, start + _BLOCK :].t(), errors[block], alpha=-1)
    # What a column leaves after the best correction by all later ones adds up to the whole error (paper, equation 2).
    return rounded, root.diagonal() ** -2 @ errors.square_()


def _compensate_block(
    rest: Tensor, nearest: Callable[[Tensor], Tensor], feedback: Tensor, rounded: Tensor, errors: Tensor
) -> None:
    """Rounds the columns of one block into `rounded` and `errors`, correcting `rest`, all in place."""
    for i in range(len(rest)):
        rounded[i] = nearest(rest[i])
        torch.sub(rest[i], rounded[i], out=errors[i])
        rest[i + 1 :].addr_(feedback[i, i + 1 :], errors[i], alpha=-1)


def inverse_root(hessian: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the inverse; its rows tell how a column's error is best spread over the later ones.

    With hessian = R R^T, R upper triangular, that factor is R^-1, so neither the inverse itself nor a second
    factorization is needed.

    Args:
        hessian: (F, F) float64, symmetric.

    Returns:
        (F, F), upper triangular; None if the matrix is not positive definite in this precision.
    """
    flipped, failure = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if int(failure):
        return None
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    inverse: Tensor = torch.linalg.solve_triangular(flipped.flip(0, 1), identity, upper=True)
    return inverse


def descend(
    integers: Tensor, slope: Tensor, scale: Tensor, hessian: Tensor, qmax: int, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Moves one integer at a time to its best value given all others, so that the error never grows.

    Args:
        integers: where to start: (F, O) float64, transposed like the weight.
        slope: H (W - Q)^T at the start: (F, O) float64.
        scale: (O,) float64.
        hessian: (F, F) float64, symmetric with a positive diagonal: the error is tr((W - Q) H (W - Q)^T).
        qmax: the largest integer.
        sweeps: how often to go over all columns, at the most.

    Returns:
        integers and slope at the end, both (F, O).
    """
    integers, slope = integers.clone(), slope.clone()
    for _ in range(sweeps):
        before = integers.clone()
        for start in range(0, len(slope), _BLOCK):
            _descend_block(start, integers, slope, scale, hessian, qmax)
        if torch.equal(before, integers):
            break
    return integers, slope


def _descend_block(start: int, integers: Tensor, slope: Tensor, scale: Tensor, hessian: Tensor, qmax: int) -> None:
    """One pass over a block's columns; `slope` is H times the current error, kept up to date in place."""
    stop = min(start + _BLOCK, len(slope))
    inside, own = hessian[start:stop, start:stop], slope[start:stop]
    moves = torch.empty_like(own)
    for i in range(stop - start):
        column = integers[start + i]
        best = (column + own[i] / (inside[i, i] * scale)).round_().clamp_(-qmax, qmax)
        torch.mul(best - column, scale, out=moves[i])
        column.copy_(best)
        own.addr_(inside[i], moves[i], alpha=-1)
    slope[:start].addmm_(hessian[:start, start:stop], moves, alpha=-1)
    slope[stop:].addmm_(hessian[stop:, start:stop], moves, alpha=-1)
