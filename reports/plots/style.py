"""The look that every plot shares: canvas, colours, and marks that are told apart also without colour."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144

INK = "#222222"
MUTED = "#8a8a8a"
GRID = "#e4e4e4"

DENSE_COLOR = "#6b6b6b"
BASIS_COLORS = {"cosine": "#0072b2", "chebyshev": "#d55e00"}
BASIS_MARKERS = {"cosine": "o", "chebyshev": "s"}
BASIS_SIZES = {"cosine": 9.5, "chebyshev": 5.5}
"""A mark drawn later is smaller, so that one at the same place under it still shows."""
OTHER_COLOR, OTHER_MARKER = "#009e73", "D"
BITS_COLORS = {"8": "#56b4e9", "4": "#cc79a7", "3": "#e69f00", "2": "#117733"}
OTHER_BITS_COLOR = "#882255"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches, that lays itself out; made without pyplot and its global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def basis_color(basis: str) -> str:
    """The colour of a basis in every plot."""
    return BASIS_COLORS.get(basis, OTHER_COLOR)


def basis_marker(basis: str) -> str:
    """The mark of a basis in every plot."""
    return BASIS_MARKERS.get(basis, OTHER_MARKER)


def basis_size(basis: str) -> float:
    """The size of a basis' mark in every plot, in points."""
    return BASIS_SIZES.get(basis, 7.0)


def bits_color(bits: str) -> str:
    """The colour of a number of bits in every plot."""
    return BITS_COLORS.get(bits, OTHER_BITS_COLOR)
