"""Two sweeps over the columns of weights that choose their stored values under a quadratic error, all rows at once.

Both take one problem per group of a convolution, as transposed matrices (G, F, O), so that a column of a weight is
contiguous, and work in blocks of columns: inside a block every column corrects the next ones at once, all later columns
are corrected by one matrix product a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from basis.errors import CompressionError

# Small enough that one column's update of a block is not worth several threads, which would wait for one another.
_BLOCK = 32


def compensated_rounding(columns: Tensor, nearest: Callable[[Tensor], Tensor], root: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds column after column and lets the later ones make up for each error (GPTQ, arXiv 2210.17323, algorithm 1).

    Args:
        columns: the weights, transposed: (G, F, O) float64, most important column first.
        nearest: gives for a column, (G, O) float64, the nearest values that can be stored, evenly spaced or not.
        root: (G, F, F) from `inverse_root`.

    Returns:
        the rounded values, (G, F, O) float64, and the error (w - q) H (w - q)^T of each row, (G, O).
    """
    rest, rounded, errors = columns.clone(), torch.empty_like(columns), torch.empty_like(columns)
    own = root.diagonal(dim1=1, dim2=2)
    feedback = root / own[:, :, None]
    for start in range(0, rest.shape[1], _BLOCK):
        block, later = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        _compensate_block(rest[:, block], nearest, feedback[:, block, block], rounded[:, block], errors[:, block])
        rest[:, later].baddbmm_(feedback[:, block, later].mT, errors[:, block], alpha=-1)
    # What a column leaves after the best correction by all later ones adds up to the whole error (paper, equation 2).
    return rounded, (own[:, None] ** -2 @ errors.square_()).squeeze(1)


def _compensate_block(
    rest: Tensor, nearest: Callable[[Tensor], Tensor], feedback: Tensor, rounded: Tensor, errors: Tensor
) -> None:
    """Rounds the columns of one block into `rounded` and `errors`, correcting `rest`, all in place."""
    for i in range(rest.shape[1]):
        rounded[:, i] = nearest(rest[:, i])
        torch.sub(rest[:, i], rounded[:, i], out=errors[:, i])
        rest[:, i + 1 :].addcmul_(feedback[:, i, i + 1 :, None], errors[:, i, None], value=-1)


def inverse_root(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """The upper Cholesky factor of the inverse; its rows tell how a column's error is best spread over the later ones.

    With hessian = R R^T, R upper triangular, that factor is R^-1, so neither the inverse itself nor a second
    factorization is needed.

    Args:
        hessian: (G, F, F) float64, symmetric.

    Returns:
        (G, F, F), upper triangular, and for each group whether its matrix is not positive definite in this precision,
        (G,); the factor of such a group means nothing.
    """
    flipped, failures = torch.linalg.cholesky_ex(hessian.flip(1, 2))
    identity = torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device).expand_as(hessian)
    safe = torch.where(failures[:, None, None] == 0, flipped.flip(1, 2), identity)
    inverse: Tensor = torch.linalg.solve_triangular(safe, identity, upper=True)
    return inverse, failures != 0


def damped(grams: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The Gram matrices with a mean diagonal of one and damping, and `inverse_root` of them.

    Inputs that are always zero are left with the damping alone: they are rounded to nearest. A matrix that is not
    positive definite in float64 gets ten times the damping until it is.
    """
    identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    mean = grams.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    unit = torch.where(mean > 0, grams / mean.clamp_min(torch.finfo(grams.dtype).tiny), identity)
    shares = torch.full_like(mean, damping)
    while bool((shares <= 1).all()):
        hessian = unit + shares * identity
        root, failed = inverse_root(hessian)
        if not bool(failed.any()):
            return hessian, root
        shares = torch.where(failed[:, None, None], (10 * shares).clamp_min(1e-6), shares)
    lowest = float(torch.linalg.eigvalsh(unit)[:, 0].min())
    raise CompressionError(
        f"gptq got a Gram matrix with eigenvalues from {lowest:.1e} times the mean "
        "diagonal; allowed is a positive semi-definite matrix."
    )


def descend(
    integers: Tensor, slope: Tensor, scale: Tensor, hessian: Tensor, qmax: int, sweeps: int
) -> tuple[Tensor, Tensor]:
    """Moves one integer at a time to its best value given all others, so that the error never grows.

    Args:
        integers: where to start: (G, F, O) float64, transposed like the weights.
        slope: H (W - Q)^T at the start: (G, F, O) float64.
        scale: (G, O) float64.
        hessian: (G, F, F) float64, symmetric with a positive diagonal: a group's error is tr((W - Q) H (W - Q)^T).
        qmax: the largest integer.
        sweeps: how often to go over all columns, at the most.

    Returns:
        integers and slope at the end, both (G, F, O).
    """
    integers, slope = integers.clone(), slope.clone()
    for _ in range(sweeps):
        before = integers.clone()
        for start in range(0, slope.shape[1], _BLOCK):
            _descend_block(slice(start, start + _BLOCK), integers, slope, scale, hessian, qmax)
        if torch.equal(before, integers):
            break
    return integers, slope


def _descend_block(block: slice, integers: Tensor, slope: Tensor, scale: Tensor, hessian: Tensor, qmax: int) -> None:
    """One pass over a block's columns; `slope` is H times the current error, kept up to date in place."""
    inside, own, columns = hessian[:, block, block], slope[:, block], integers[:, block]
    moves = torch.empty_like(own)
    for i in range(own.shape[1]):
        best = (columns[:, i] + own[:, i] / (inside[:, i, i, None] * scale)).round_().clamp_(-qmax, qmax)
        torch.mul(best - columns[:, i], scale, out=moves[:, i])
        columns[:, i] = best
        own.addcmul_(inside[:, i, :, None], moves[:, i, None], value=-1)
    for rest in (slice(block.start), slice(block.stop, None)):
        slope[:, rest].baddbmm_(hessian[:, rest, block], moves, alpha=-1)
