"""Ridge regression from its normal equations."""

import torch
from torch import Tensor

# Share of the Gram matrix' mean diagonal. It only has to steady directions that the images do not show: with 65,536
# positions for at most a few thousand coefficients the rest is determined well.
RIDGE = 1e-4


def ridge_solution(gram: Tensor, right: Tensor) -> Tensor:
    """Solve (G + r I) D = R by Cholesky, with a small ridge r.

    A matrix that is singular still gets ten times the ridge until it is not.

    Args:
        gram: G, float64, (groups, F, F), positive semi-definite.
        right: R, float64, (groups, F, O).

    Returns:
        D, (groups, F, O); zero where the matrices are not finite.
    """
    mean = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(gram.dtype).tiny)
    identity, ridge = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device), RIDGE
    while ridge <= 1:
        factor, failures = torch.linalg.cholesky_ex(gram + ridge * mean[:, None, None] * identity)
        if not bool(failures.any()):
            solution: Tensor = torch.cholesky_solve(right, factor)
            return solution
        ridge *= 10
    return torch.zeros_like(right)
