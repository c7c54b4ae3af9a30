"""Rings around coinciding marks, so that each of them is visible."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.plots.marks import RING_NAME
from reports.plots.style import lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NEAR = 3.0
"""Distance of two marks that coincide, in points."""
_LARGER = 3.0
"""Difference in size from which a smaller mark on a larger one leaves it visible, in points."""
_STEP = 4.5
"""Difference in diameter of neighbouring rings, in points."""


class Mark(NamedTuple):
    """A mark at (x, y), in data coordinates, with its diameter in points and its colour."""

    x: float
    y: float
    size: float
    color: str


def ring_sizes(places: Sequence[tuple[float, float]], sizes: Sequence[float]) -> list[float]:
    """Return the diameter of the ring around each mark that a later one hides, in points; 0 for the other marks.

    Args:
        places: The (x, y) of each mark in points, in the order of drawing.
        sizes: The diameter of each mark, in points.
    """
    near = [[math.dist(a, b) < _NEAR for b in places] for a in places]
    rings = [0.0] * len(places)
    for own, size in enumerate(sizes):
        later = [other for other in range(own + 1, len(sizes)) if near[own][other]]
        if any(sizes[other] > size - _LARGER for other in later):
            together = [other for other in range(len(sizes)) if near[own][other]]
            rings[own] = _STEP + max(max(sizes[other], rings[other]) for other in together)
    return rings


def draw_rings(axis: "Axes", marks: Sequence[Mark]) -> None:
    """Draw a ring in its own colour for each mark that a later one hides.

    Call this function when the axes have their final limits.

    Args:
        axis: The axes.
        marks: All marks, in the order in which they were drawn.
    """
    lay_out(axis.figure.get_figure(root=True))
    scale = axis.figure.get_figure(root=True).dpi / 72
    pixels = [axis.transData.transform((mark.x, mark.y)) for mark in marks]
    rings = ring_sizes([(x / scale, y / scale) for x, y in pixels], [mark.size for mark in marks])
    for mark, ring in zip(marks, rings, strict=True):
        if ring:
            axis.plot([mark.x], [mark.y], **_look(ring, mark.color))
    if any(rings):
        axis.plot([], [], label=RING_NAME, **_look(11, "#8a8a8a"))


def _look(size: float, color: str) -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgecolor": color,
        "markeredgewidth": 1.3,
        "zorder": 6,
    }
