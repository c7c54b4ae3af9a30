"""Cholesky factorization of Gram matrices that may be singular in floating point, and ridge regression by it."""

import torch
from torch import Tensor

from basis.errors import NumericalError

# Ridge as a share of the Gram matrix' mean diagonal. It only steadies directions that the images do not contain: 65,536
# positions determine the other directions of at most a few thousand coefficients.
RIDGE = 1e-4
# A larger share than this changes the problem instead of steadying it.
_MAX_DAMPING = 1.0


def damped_cholesky(
    matrices: Tensor,
    scale: Tensor,
    damping: float,
    *,
    smallest: float,
    largest: float = _MAX_DAMPING,
    per_matrix: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Factor ``M + d s I = L L^T`` with the first damping d that succeeds: ``damping``, then ten times as much, ...

    ``damping`` itself is always tried; larger values only up to ``largest``.

    Args:
        matrices: M, symmetric, float64, (groups, F, F).
        scale: s, (groups, 1, 1), for example the mean diagonal of M.
        damping: The first d, as a share of s; 0 factors M itself.
        smallest: The least d of the second attempt, for a first d of 0.
        largest: The largest d of further attempts.
        per_matrix: Raise d only for the matrices whose factorization fails; otherwise for all of them.

    Returns:
        L, lower triangular, and the damped matrices, both (groups, F, F). None if no d succeeds, as for matrices
        that are not finite.
    """
    shares, damped = torch.full_like(scale, damping), matrices
    while True:
        if bool(shares.any()):
            damped = matrices.clone()
            damped.diagonal(dim1=1, dim2=2).add_((shares * scale).squeeze(2))
        factor, failures = torch.linalg.cholesky_ex(damped)
        if not bool(failures.any()):
            return factor, damped
        raised = (10 * shares).clamp_min(smallest)
        shares = torch.where(failures[:, None, None] != 0, raised, shares) if per_matrix else raised
        if bool((shares > largest).any()):
            return None


def mean_diagonal(matrices: Tensor) -> Tensor:
    """Return the mean diagonal of each matrix, above zero: (groups, F, F) -> (groups, 1, 1)."""
    mean = matrices.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(matrices.dtype).tiny)
    return mean[:, None, None]


def ridge_solution(gram: Tensor, right: Tensor, ridge: float = RIDGE) -> Tensor:
    """Solve ``(G + r m I) D = R`` by Cholesky, where m is the mean diagonal of G.

    A matrix that is still singular gets ten times the ridge until it is not.

    Args:
        gram: G, float64, (groups, F, F), positive semi-definite.
        right: R, float64, (groups, F, O).
        ridge: r, a share of m.

    Returns:
        D, float64, (groups, F, O).

    Raises:
        NumericalError: A matrix is not finite, or not positive semi-definite.

    Example:
        >>> ridge_solution(torch.eye(2, dtype=torch.float64)[None], torch.ones(1, 2, 1, dtype=torch.float64), 0.25)
        tensor([[[0.8000],
                 [0.8000]]], dtype=torch.float64)
    """
    found = damped_cholesky(gram, mean_diagonal(gram), ridge, smallest=ridge)
    if found is None:
        raise NumericalError("fit: a Gram matrix is not positive semi-definite; allowed: one that is, and is finite")
    solution: Tensor = torch.cholesky_solve(right, found[0])
    return solution
