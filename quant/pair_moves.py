"""Move two integers of a row at once, where no move of one of them lowers the squared error of the outputs."""

from typing import Final

import torch
from torch import Tensor

from basis import progress

_CANDIDATES: Final = 48
"""Integers of a row of which the pairs are tried: those whose own move raises the error least."""
_ROUNDS: Final = 64
"""Most moves of a row."""
_VALUES: Final = 2**22
"""Values of the errors of all pairs that are computed at once."""
_LEAST: Final = 1e-6
"""Least gain of a move, as a share of the mean gain of undoing an error of one."""


def move_pairs(integers: Tensor, slope: Tensor, hessian: Tensor) -> Tensor:
    """Move pairs of integers by one each, the best pair of each row first, while the error of the row falls.

    Two columns with much the same inputs can exchange a unit, although either move alone would raise the error. Each
    move goes in the direction in which the error of this integer alone falls or rises least.

    Args:
        integers: (G, F, O), float64, transposed like the weights; the result of ``quant.sweeps.descend``.
        slope: ``H (W - Q)^T``, (G, F, O), float64.
        hessian: H, (G, F, F), float64, symmetric with a positive diagonal, in units of the integers.

    Returns:
        The integers, (G, F, O).
    """
    groups, features, _ = integers.shape
    count = min(_CANDIDATES, features)
    at_once = max(1, _VALUES // (groups * count * count))
    moved = [
        _move(some, gradient, hessian, count)
        for some, gradient in zip(integers.split(at_once, 2), slope.split(at_once, 2), strict=True)
    ]
    return torch.cat(moved, dim=2)


def _move(integers: Tensor, slope: Tensor, hessian: Tensor, count: int) -> Tensor:
    """See ``move_pairs``; rows in which no pair is left are put aside."""
    found, left = integers.clone(), torch.arange(integers.shape[2], device=integers.device)
    integers, slope = integers.clone(), slope.clone()
    diagonal = hessian.diagonal(dim1=1, dim2=2)[:, :, None]
    least = -_LEAST * float(diagonal.mean())
    group = torch.arange(len(slope), device=slope.device)[:, None]
    for _ in range(_ROUNDS):
        change, pair, direction = _best_pairs(slope, hessian, diagonal, count)
        better = change < least
        moves = direction.gather(1, pair) * better[:, None]
        same = pair[:, 0] == pair[:, 1]  # one integer
        moves[:, 1].masked_fill_(same, 0)
        integers.scatter_add_(1, pair, moves)
        for column, move in zip(pair.unbind(1), moves.unbind(1), strict=True):
            slope -= hessian[group, column].mT * move[:, None]
        found[:, :, left] = integers
        active = better.any(0)
        if not bool(active.any()):
            break
        integers, slope, left = integers[:, :, active], slope[:, :, active], left[active]
        progress.step()
    return found


def _best_pairs(slope: Tensor, hessian: Tensor, diagonal: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each row the least change of the error by a pair of moves, (G, O), the pair, and the directions.

    The pair has the numbers of two columns, (G, 2, O), which may be the same one. The directions, 1 or -1, are of all
    columns, (G, F, O). A move of column j by d changes the error by ``H_jj - 2 d slope_j``, and moves of two columns
    by the sum of both and ``2 d_j d_k H_jk``.
    """
    direction = torch.where(slope < 0, -1.0, 1.0).to(slope)
    alone, chosen = (diagonal - 2 * slope.abs()).topk(count, dim=1, largest=False)
    signs, group = direction.gather(1, chosen), torch.arange(len(slope), device=slope.device)[:, None, None, None]
    both = hessian[group, chosen[:, :, None], chosen[:, None]] * (2 * signs[:, :, None] * signs[:, None])
    both += alone[:, :, None]
    both += alone[:, None]
    both.diagonal(dim1=1, dim2=2).copy_(alone.mT)
    change, place = both.flatten(1, 2).min(1)
    places = torch.stack([place // count, place % count], dim=1)
    return change, chosen.gather(1, places), direction
