"""Fit the parameters of a family to the weights: a grid of candidates, then Levenberg-Marquardt steps on each slice."""

from typing import Final

import torch
from torch import Tensor

from basis.errors import NumericalError
from basis.least_squares import Size2d
from basis.parametric.evaluation import kernels, kernels_and_jacobian, limits, middles, profiles_of
from basis.parametric.normal_equations import damped_solution, gram

STEPS: Final = 8
"""Steps after the grid. For ``fractional``, the relative error of ResNet-20 is 0.4931 after 8 and 0.4916 after 20."""
_SLICES_AT_ONCE: Final = 4096
_GRID_SLICES: Final = 1024
"""Slices that are compared with the whole grid at once, which limits the memory."""
_FIRST_DAMPING: Final = 1e-2
"""Damping of the first step, as a share of the diagonal of ``J^T J``."""
_LESS, _MORE = 0.2, 5.0
"""Factors of a slice's damping after an accepted step, and after a rejected one."""
_TINY: Final = 1e-30  # keeps a kernel of norm 0 from a division by zero


def fit_parameters(weight: Tensor, family: str) -> Tensor:
    """Find parameters with a small ``||W - W'||`` for every slice W of a weight and its kernel W'.

    The best kernel of a grid is the one with the largest cosine to the slice; its amplitude has a closed form. Damped
    Gauss-Newton steps follow, each accepted only if it lowers the error of its slice. The problem is not convex, so the
    result is a local minimum.

    Args:
        weight: (O, I, kh, kw), floating point.
        family: A name in ``basis.parametric.families.FAMILIES``.

    Returns:
        Stored values of shape (O, I, 1, P), with the dtype and device of ``weight``.

    Raises:
        NumericalError: A value of the weight is not finite.

    Example:
        >>> fit_parameters(torch.ones(8, 4, 3, 3), "fracsrf").shape
        torch.Size([8, 4, 1, 3])
    """
    if not bool(torch.isfinite(weight).all()):
        raise NumericalError("fit: the weight holds NaN or infinite values; allowed: finite numbers")
    kernel = (weight.shape[-2], weight.shape[-1])
    taps = weight.detach().to(torch.float64).reshape(-1, kernel[0] * kernel[1]).T.contiguous()
    starts = _grid(family, kernel, weight.device)
    found = [_refined(block, _best(block, *starts), family, kernel) for block in taps.split(_SLICES_AT_ONCE, dim=1)]
    return torch.cat(found, dim=1).T.to(weight.dtype).reshape(*weight.shape[:2], 1, -1).contiguous()


def _grid(family: str, kernel: Size2d, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the stored values of the candidates, (P, N) with amplitude 1, and their kernels of norm 1, (N, kh kw)."""
    shape = profiles_of(family).candidates(kernel) - middles(family)[:, None]
    stored = torch.cat([torch.ones_like(shape[:1]), shape]).to(device)
    atoms = kernels(stored, family, kernel).flatten(0, 1)
    return stored, (atoms / (atoms.norm(dim=0) + _TINY)).T.to(torch.float32).contiguous()


def _best(wanted: Tensor, stored: Tensor, atoms: Tensor) -> Tensor:
    """Return the stored values of the candidate with the largest cosine to each slice: (P, S)."""
    rows = wanted.T.to(torch.float32)
    chosen = [(block @ atoms.T).abs_().argmax(1) for block in rows.split(_GRID_SLICES)]
    return stored[:, torch.cat(chosen)]


def _refined(wanted: Tensor, stored: Tensor, family: str, kernel: Size2d) -> Tensor:
    """Take the steps towards slices, (kh kw, S), and return the stored values, (P, S)."""
    least, largest = (limit[:, None] for limit in limits(family, wanted.device))
    stored, error = _with_amplitude(wanted, stored, family, kernel)
    damping = torch.full_like(error, _FIRST_DAMPING)
    for _ in range(STEPS):
        found, change = kernels_and_jacobian(stored, family, kernel)
        change = change.flatten(1, 2)
        matrix = gram(change)
        right = (change * (wanted - found.flatten(0, 1))).sum(1)
        step = damped_solution(matrix, right, damping * matrix.diagonal(dim1=1, dim2=2).T)
        tried, new = _with_amplitude(wanted, (stored + step).clamp(least, largest), family, kernel)
        better = new < error
        stored, error = torch.where(better, tried, stored), torch.where(better, new, error)
        damping = damping * torch.where(better, _LESS, _MORE)
    return stored


def _with_amplitude(wanted: Tensor, stored: Tensor, family: str, kernel: Size2d) -> tuple[Tensor, Tensor]:
    """Set the best amplitude of each slice; return the stored values and the squared errors, (S,)."""
    unit = kernels(torch.cat([torch.ones_like(stored[:1]), stored[1:]]), family, kernel).flatten(0, 1)
    amplitude = (unit * wanted).sum(0) / (unit.square().sum(0) + _TINY)
    errors = (wanted - amplitude * unit).square_().sum(0)
    return torch.cat([amplitude[None], stored[1:]]), errors
