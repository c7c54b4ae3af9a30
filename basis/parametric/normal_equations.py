"""Solve the normal equations of many slices at once, with the slices along the last axis."""

from typing import Final

import torch
from torch import Tensor

_TINY: Final = 1e-30

Matrix = list[list[Tensor]]
"""Lower triangle of symmetric matrices: row i has i + 1 tensors of shape (S,)."""


def gram(change: Tensor) -> Matrix:
    """Return ``J^T J`` of derivatives J by P parameters: (P, taps, S) to the lower triangle of (P, P)."""
    return [[(change[i] * change[j]).sum(0) for j in range(i + 1)] for i in range(len(change))]


def damped_solution(matrix: Matrix, right: Tensor, damping: Tensor) -> Tensor:
    """Solve ``(M + diag(d)) x = b`` by Cholesky.

    Args:
        matrix: M, positive semi-definite, float64.
        right: b, (P, S).
        damping: d, (P, S) or (P, 1), not negative.

    Returns:
        x, (P, S); finite also where M and d are zero.
    """
    count = len(right)
    root: Matrix = []
    for i in range(count):
        root.append([])
        for j in range(i):
            rest = matrix[i][j] - _dot(root[i], root[j], j)
            root[i].append(rest / root[j][j])
        pivot = matrix[i][i] + damping[i] - _dot(root[i], root[i], i)
        root[i].append(pivot.clamp_min(_TINY).sqrt())
    forward: list[Tensor] = []
    for i in range(count):
        forward.append((right[i] - _dot(root[i], forward, i)) / root[i][i])
    solution = list(forward)
    for i in reversed(range(count)):
        below = sum((root[j][i] * solution[j] for j in range(i + 1, count)), torch.zeros_like(right[i]))
        solution[i] = (forward[i] - below) / root[i][i]
    return torch.stack(solution).nan_to_num_(0.0, 0.0, 0.0)


def _dot(left: list[Tensor], right: list[Tensor], count: int) -> Tensor | float:
    return sum((left[k] * right[k] for k in range(count)), 0.0)
