"""Style of all plots: canvas, colours, and marks that can be distinguished without colour."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 144

INK = "#222222"
MUTED = "#8a8a8a"
GRID = "#e4e4e4"

DENSE_COLOR = "#6b6b6b"
BASELINE_COLOR = "#e0a800"
BASIS_COLORS = {"cosine": "#0072b2", "chebyshev": "#d55e00", "fracsrf": "#00794f", "fractional": "#7f3c8d"}
BASIS_MARKERS = {"cosine": "o", "chebyshev": "s", "fracsrf": "^", "fractional": "v"}
BASIS_SIZES = {"cosine": 9.5, "chebyshev": 5.5}
"""Size of the marks, in points. A mark drawn later is smaller, so that an equal point below it stays visible."""
TARGET_MARKER = "P"
OTHER_COLOR, OTHER_MARKER = "#009e73", "D"
BITS_COLORS = {"8": "#56b4e9", "4": "#cc79a7", "3": "#e69f00", "2": "#117733"}
OTHER_BITS_COLOR = "#882255"


def new_figure(width: float, height: float) -> "Figure":
    """Create an empty figure with automatic layout; sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def lay_out(figure: "Figure") -> None:
    """Place everything in a figure, without drawing it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def fix_layout(figure: "Figure") -> None:
    """Place everything in a figure for the last time: otherwise, saving the figure does so twice."""
    lay_out(figure)
    figure.set_layout_engine("none")


def basis_color(basis: str) -> str:
    """Return the colour of a basis."""
    return BASIS_COLORS.get(basis, OTHER_COLOR)


def basis_marker(basis: str) -> str:
    """Return the marker of a basis."""
    return BASIS_MARKERS.get(basis, OTHER_MARKER)


def basis_size(basis: str) -> float:
    """Return the marker size of a basis, in points."""
    return BASIS_SIZES.get(basis, 7.0)


def bits_color(bits: str) -> str:
    """Return the colour of a bit width."""
    return BITS_COLORS.get(bits, OTHER_BITS_COLOR)
