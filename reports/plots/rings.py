"""Rings around coinciding marks, so that each of them is visible."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

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
    """A mark at (x, y), in data coordinates, with its diameter in points, its colour and the group id of its row."""

    x: float
    y: float
    size: float
    color: str
    gid: str | None = None


def draw_rings(axis: "Axes", marks: Sequence[Mark]) -> None:
    """Draw a ring in its own colour for each mark that a later one hides.

    Call this function when the axes have their final limits.

    Args:
        axis: The axes.
        marks: All marks, in the order in which they were drawn.
    """
    lay_out(axis.figure.get_figure(root=True))
    scale = axis.figure.get_figure(root=True).dpi / 72
    places = [np.asarray(axis.transData.transform((mark.x, mark.y))) / scale for mark in marks]
    near = [[float(np.hypot(*(a - b))) < _NEAR for b in places] for a in places]
    rings = [0.0] * len(marks)
    for own, mark in enumerate(marks):
        later = [other for other in range(own + 1, len(marks)) if near[own][other]]
        if not any(marks[other].size > mark.size - _LARGER for other in later):
            continue
        together = [other for other in range(len(marks)) if near[own][other]]
        rings[own] = _STEP + max(max(marks[other].size, rings[other]) for other in together)
        axis.plot([mark.x], [mark.y], gid=mark.gid, **_look(rings[own], mark.color))
    if any(rings):
        axis.plot([], [], label="Ring: a further row there", **_look(11, "#8a8a8a"))


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
