"""Evaluate the kernels of a parametric family, and their derivatives by the stored values.

    W = a p(y) q(x)

``W`` is the kernel of a slice and ``a`` its amplitude. The profiles ``p`` and ``q`` depend on the other parameters. A
slice stores the amplitude, and every other parameter minus the middle of its range. A parameter outside its range is
clamped to the nearer end.
"""

from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from basis.errors import CompressionError
from basis.least_squares import Size2d
from basis.parametric.families import FAMILIES

_SLICES_AT_ONCE = 4096  # in float64, so many kernels of 3x3 take 0.3 MB


class Profiles(Protocol):
    """Functions of the module of a family. The slices run along the last axis, where operations are fast."""

    def profiles(self, shape: Tensor, kernel: Size2d) -> tuple[Tensor, Tensor]:
        """Return p (kh, S) and q (kw, S) for the parameters (P - 1, S), float64, the same bits on every machine."""

    def profiles_and_derivatives(self, shape: Tensor, kernel: Size2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return p and q, and their derivatives by each parameter: (P - 1, kh, S) and (P - 1, kw, S)."""

    def candidates(self, kernel: Size2d) -> Tensor:
        """Return parameters that cover the range, from which a fit starts: (P - 1, N)."""


def profiles_of(family: str) -> Profiles:
    """Load the module of a family.

    Raises:
        CompressionError: The family is unknown.
    """
    if family not in FAMILIES:
        raise CompressionError(f"parametric: family {family!r} is unknown; allowed: {', '.join(FAMILIES)}")
    return cast(Profiles, import_module(FAMILIES[family].home))


def limits(family: str, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Return the least and the largest stored value of each parameter: (P,), float64. An amplitude has no limits."""
    shape = FAMILIES[family].shape
    halves = [float("inf"), *((parameter.high - parameter.low) / 2 for parameter in shape)]
    largest = torch.tensor(halves, dtype=torch.float64, device=device)
    return -largest, largest


def middles(family: str, device: torch.device | None = None) -> Tensor:
    """Return the middle of the range of each parameter but the amplitude: (P - 1,), float64."""
    return torch.tensor([each.middle for each in FAMILIES[family].shape], dtype=torch.float64, device=device)


def reconstruct(stored: Tensor, family: str, kernel: Size2d) -> Tensor:
    """Evaluate the kernels of stored values; every machine gives the same kernels, bit for bit.

    Args:
        stored: (O, I, 1, P), floating point.
        family: A name in ``basis.parametric.families.FAMILIES``.
        kernel: Taps (kh, kw).

    Returns:
        Kernels of shape (O, I, kh, kw), with the dtype and device of ``stored``; computed in float64.

    Example:
        >>> reconstruct(torch.zeros(8, 4, 1, 3), "fracsrf", (3, 3)).shape
        torch.Size([8, 4, 3, 3])
    """
    slices = stored.detach().reshape(-1, stored.shape[-1]).T
    blocks = [kernels(block, family, kernel).to(stored.dtype) for block in slices.split(_SLICES_AT_ONCE, dim=1)]
    return torch.cat(blocks, dim=2).permute(2, 0, 1).reshape(*stored.shape[:2], *kernel)


def kernels(stored: Tensor, family: str, kernel: Size2d) -> Tensor:
    """Evaluate slices: (P, S), floating point, to (kh, kw, S), float64."""
    amplitude, shape = _parameters(stored, family)
    p, q = profiles_of(family).profiles(shape, kernel)
    return (amplitude * p)[:, None] * q


def kernels_and_jacobian(stored: Tensor, family: str, kernel: Size2d) -> tuple[Tensor, Tensor]:
    """Evaluate slices, (P, S), and their derivatives by the stored values.

    Outside its range, a parameter has the derivative at the nearer end.

    Returns:
        Kernels (kh, kw, S) and derivatives (P, kh, kw, S), float64.
    """
    amplitude, shape = _parameters(stored, family)
    p, q, dp, dq = profiles_of(family).profiles_and_derivatives(shape, kernel)
    by_shape = amplitude * (dp[:, :, None] * q + p[:, None] * dq[:, None])
    return (amplitude * p)[:, None] * q, torch.cat([(p[:, None] * q)[None], by_shape])


def _parameters(stored: Tensor, family: str) -> tuple[Tensor, Tensor]:
    """Return the amplitudes (S,) and the other parameters (P - 1, S), float64, within their ranges."""
    values = stored.to(torch.float64, memory_format=torch.contiguous_format)
    least, largest = limits(family, values.device)
    within = values[1:].clamp(least[1:, None], largest[1:, None])
    return values[0], within + middles(family, values.device)[:, None]
