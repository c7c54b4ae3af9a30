"""Two sweeps over the columns of a weight that choose integers under a quadratic error, all rows at once.

Both work on transposed matrices, (F, O), so that a column of the weight is contiguous, and in blocks of columns: inside
a block every column corrects the next ones at once, all later columns are corrected by one matrix product a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 32


def compensated_rounding(columns: Tensor, scale: Tensor, feedback: Tensor, qmax: int) -> Tensor:
    """Rounds column after column and lets the later ones make up for each error (GPTQ, arXiv 2210.17323, algorithm 1).

    Args:
        columns: the weight, transposed: (F, O) float64, most important column first.
        scale: (O,) float64.
        feedback: (F, F) upper triangular with a unit diagonal, from `feedback_matrix`.
        qmax: the largest integer.

    Returns:
        integers as float64, (F, O).
    """
    rest, integers = columns.clone(), torch.empty_like(columns)
    for start in range(0, len(rest), _BLOCK):
        block = slice(start, start + _BLOCK)
        errors = _compensate_block(rest[block], scale, feedback[block, block], qmax, integers[block])
        rest[start + _BLOCK :].addmm_(feedback[block, start + _BLOCK :].t(), errors, alpha=-1)
    return integers


def _compensate_block(rest: Tensor, scale: Tensor, feedback: Tensor, qmax: int, integers: Tensor) -> Tensor:
    """Rounds the columns of one block into `integers`, correcting `rest` in place; returns their errors."""
    errors = torch.empty_like(rest)
    for i in range(len(rest)):
        integers[i] = (rest[i] / scale).round_().clamp_(-qmax, qmax)
        torch.addcmul(rest[i], integers[i], scale, value=-1, out=errors[i])
        rest[i + 1 :].addr_(feedback[i, i + 1 :], errors[i], alpha=-1)
    return errors


def feedback_matrix(hessian: Tensor) -> Tensor:
    """Finds how the error of each column is best spread over the later ones.

    It is the upper Cholesky factor of the inverse (its rows divided by their diagonal: the `feedback`); with hessian = R R^T, R upper triangular, that
    factor is R^-1, so neither the inverse nor a second factorization is needed.

    Args:
        hessian: (F, F) float64, symmetric.

    Returns:
        (F, F): upper triangular R^-1, its diagonal not yet divided out.

    Raises:
        torch.linalg.LinAlgError: if the matrix is not positive definite.
    """
    root = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    return torch.linalg.solve_triangular(root, identity, upper=True)


def descend(columns: Tensor, integers: Tensor, scale: Tensor, hessian: Tensor, qmax: int, sweeps: int) -> Tensor:
    """Moves one integer at a time to its best value given all others, so that the error never grows.

    Args:
        columns: the weight, transposed: (F, O) float64.
        integers: where to start: (F, O) float64.
        scale: (O,) float64.
        hessian: (F, F) float64, symmetric with a positive diagonal: the error is tr((W - Q) H (W - Q)^T).
        qmax: the largest integer.
        sweeps: how often to go over all columns, at the most.

    Returns:
        integers as float64, (F, O).
    """
    integers = integers.clone()
    slope = hessian @ torch.addcmul(columns, integers, scale, value=-1)
    for _ in range(sweeps):
        before = integers.clone()
        for start in range(0, len(columns), _BLOCK):
            _descend_block(start, integers, slope, scale, hessian, qmax)
        if torch.equal(before, integers):
            break
    return integers


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
