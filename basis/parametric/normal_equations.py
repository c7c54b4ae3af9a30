"""Solve the normal equations of many slices at once."""

from typing import Final

import torch
from torch import Tensor

_TINY: Final = 1e-30  # added to a damping of 0, so that a matrix of zeros is positive definite


def gram(change: Tensor) -> Tensor:
    """Return ``J^T J`` of derivatives J by P parameters: (P, taps, S) to (S, P, P)."""
    return torch.einsum("pts,qts->spq", change, change)


def damped_solution(matrix: Tensor, right: Tensor, damping: Tensor) -> Tensor:
    """Solve ``(M + diag(d)) x = b`` for every slice.

    Args:
        matrix: M, (S, P, P), positive semi-definite, float64.
        right: b, (P, S).
        damping: d, (P, S) or (P, 1), not negative.

    Returns:
        x, (P, S); 0 where the sum is not positive definite in float64, or where b is 0.
    """
    damped = matrix + torch.diag_embed((damping + _TINY).T)
    root, _ = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_solve(right.T[:, :, None], root)[:, :, 0].T.nan_to_num(0.0, 0.0, 0.0)
