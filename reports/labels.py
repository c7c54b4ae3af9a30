"""Labels beside the marks of a plot, placed so that they cover neither each other nor the marks where possible."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reports import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

_FONT = 8
_MARK = 7
"""Half the side of the square that a mark is taken to cover, in pixels of a 100-dpi figure."""
_RINGS = (9, 16, 26, 38, 52, 68, 86, 106)
"""Distances from mark to label that are tried, the nearest first, in points."""
_DIRECTIONS = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))


class Label(NamedTuple):
    """A text for the mark at (x, y), in data coordinates."""

    text: str
    x: float
    y: float


class _Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "_Box") -> float:
        """The shared area, in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)


def place_labels(axis: "Axes", labels: Sequence[Label]) -> None:
    """Write each label at the nearest of a fixed list of places where it covers least, with a thin line to its mark.

    Greedy and deterministic: the labels are placed from the top of the plot down. Call it after everything else is
    drawn and the axes have their final limits.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(axis.figure.get_figure(root=True))
    canvas.draw()
    axis.set_xlim(axis.get_xlim())
    axis.set_ylim(axis.get_ylim())
    taken = _marks(axis)
    for label in sorted(labels, key=lambda label: (-label.y, label.x, label.text)):
        taken.append(_place(axis, canvas, label, taken))


def _marks(axis: "Axes") -> list[_Box]:
    """What every mark of the plot covers."""
    points = np.concatenate([line.get_xydata() for line in axis.lines]) if axis.lines else np.empty((0, 2))
    return [_Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in axis.transData.transform(points)]


def _place(axis: "Axes", canvas: "FigureCanvasAgg", label: Label, taken: Sequence[_Box]) -> _Box:
    text = axis.annotate(
        label.text,
        (label.x, label.y),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=_FONT,
        color=palette.INK,
        arrowprops={"arrowstyle": "-", "color": palette.MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        zorder=5,
    )
    extent = text.get_window_extent(canvas.get_renderer())
    x, y = axis.transData.transform((label.x, label.y))
    scale = canvas.figure.dpi / 72
    frame = axis.get_window_extent()
    inside = _Box(frame.x0, frame.y0, frame.x1, frame.y1)
    places = [(ring, *direction) for ring in _RINGS for direction in _DIRECTIONS]
    boxes = [_box(x, y, extent.width, extent.height, ring * scale, across, up) for ring, across, up in places]
    costs = [_cost(box, taken, inside) + place[0] for box, place in zip(boxes, places, strict=True)]
    best = boxes[costs.index(min(costs))]
    text.set_position(((best.left - x) / scale, (best.bottom - y) / scale))
    return best


def _box(x: float, y: float, width: float, height: float, ring: float, across: float, up: float) -> _Box:
    """The label's rectangle when it lies at `ring` pixels from its mark in one of the directions."""
    left = x + across * ring - width * (1 - across) / 2
    bottom = y + up * ring - height * (1 - np.sign(up)) / 2
    return _Box(left, bottom, left + width, bottom + height)


def _cost(box: _Box, taken: Sequence[_Box], inside: _Box) -> float:
    """Square pixels that the box covers of others or has outside the axes."""
    area = (box.right - box.left) * (box.top - box.bottom)
    return 3 * (area - box.overlap(inside)) + sum(box.overlap(other) for other in taken)
