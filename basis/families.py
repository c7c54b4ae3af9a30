"""The families of basis functions; imports torch only when a function is called.

A new family is one entry in ``BASES``.
"""

from collections.abc import Callable
from math import pi
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Basis(NamedTuple):
    """A family of functions, and the interval over which the taps of a kernel are spread.

    Attributes:
        start: The first tap's place.
        end: The last tap's place.
        terms: (grid (n,), order) -> (n, order), the first ``order`` functions at the places of the grid.
    """

    start: float
    end: float
    terms: Callable[["Tensor", int], "Tensor"]


def cosine_terms(grid: "Tensor", order: int) -> "Tensor":
    """Return cos(i x) for i = 0..order-1, as columns."""
    import torch

    return torch.cos(grid[:, None] * torch.arange(order, dtype=grid.dtype))


def chebyshev_terms(grid: "Tensor", order: int) -> "Tensor":
    """Return T_i(x) for i = 0..order-1, as columns, by the recurrence T_i = 2 x T_{i-1} - T_{i-2}."""
    import torch

    terms = [torch.ones_like(grid), grid]
    while len(terms) < order:
        terms.append(2 * grid * terms[-1] - terms[-2])
    return torch.stack(terms[:order], dim=1)


BASES: Final[dict[str, Basis]] = {
    # The grid stays clear of 0 and pi, where every cosine is flat.
    "cosine": Basis(0.2 * pi, 0.8 * pi, cosine_terms),
    "chebyshev": Basis(-1.0, 1.0, chebyshev_terms),
}
