"""Labels beside the marks of a plot, placed so that they cover neither each other nor the marks where possible.

A box is four numbers in pixels: left, bottom, right, top; boxes are the rows of one array.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reports.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

_STYLE: dict[str, Any] = {
    "fontsize": 8,
    "color": style.INK,
    "arrowprops": {"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
    "zorder": 5,
}
_MARK, _LINE = 9, 2
"""Half the side of the square that a mark, and a point of a line, is taken to cover, in pixels."""
_STEP = 6
"""Distance between the points of a line that are looked at, in pixels."""
_RINGS = (9, 16, 26, 38, 52, 68, 86, 106)
"""Distances from mark to label that are tried, in points."""
_SIDES = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))
_CORNERS = ((1, 1.6), (-1, 1.6), (1, -1.6), (-1, -1.6))
_PLACES = np.array([(ring, *direction) for ring in _RINGS for direction in _SIDES + _CORNERS], dtype=np.float64)


class Label(NamedTuple):
    """A text for the mark at (x, y), in data coordinates."""

    text: str
    x: float
    y: float


def place_labels(axis: "Axes", labels: Sequence[Label]) -> None:
    """Write each label at the nearest of a fixed list of places where it covers least, with a thin line to its mark.

    Greedy and deterministic: the labels are placed from the top of the plot down. Call it after everything else is
    drawn and the axes have their final limits.
    """
    axis.figure.get_figure(root=True).draw_without_rendering()
    axis.set_xlim(axis.get_xlim())
    axis.set_ylim(axis.get_ylim())
    taken = _covered(axis)
    for label in sorted(labels, key=lambda label: (-label.y, label.x, label.text)):
        taken = np.vstack([taken, _place(axis, label, taken)])


def _covered(axis: "Axes") -> Array:
    """What the marks cover, and thinly what the lines and error bars between them do."""
    lines = [np.asarray(line.get_xydata()) for line in axis.lines]
    bars = [np.asarray(bar) for each in axis.collections for bar in getattr(each, "get_segments", list)()]
    runs: list[Array] = [axis.transData.transform(run) for run in (*lines, *bars) if len(run)]
    marks = [_around(run, _MARK) for run in runs[: len(lines)]]
    return np.vstack([*marks, *(_around(_sampled(run), _LINE) for run in runs), np.empty((0, 4))])


def _sampled(run: Array) -> Array:
    """Points every few pixels along a line through the given ones."""
    pairs = itertools.pairwise(run)
    steps = [np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / _STEP)) for start, end in pairs]
    return np.concatenate(steps) if steps else np.empty((0, 2))


def _around(points: Array, half: float) -> Array:
    return np.hstack([points - half, points + half])


def _place(axis: "Axes", label: Label, taken: Array) -> Array:
    """Write one label where it costs least, and give back what it covers."""
    text = axis.annotate(label.text, (label.x, label.y), (0, 0), textcoords="offset points", **_STYLE)
    extent, frame = text.get_window_extent(), axis.get_window_extent()
    mark = axis.transData.transform((label.x, label.y))
    scale = axis.figure.get_figure(root=True).dpi / 72
    boxes = _candidates(mark, extent.width, extent.height, scale)
    outside = extent.width * extent.height - _overlap(boxes, np.array([frame.extents]))
    costs = _overlap(boxes, taken) + 3 * outside + 3 * scale * _PLACES[:, 0]
    best: Array = boxes[np.argmin(costs)]
    text.set_position(tuple((best[:2] - mark) / scale))
    return best


def _candidates(mark: Array, width: float, height: float, scale: float) -> Array:
    """The label's box at every place around its mark, the nearest first."""
    ring, across, up = scale * _PLACES[:, 0], _PLACES[:, 1], _PLACES[:, 2]
    left = mark[0] + across * ring - width * (1 - across) / 2
    bottom = mark[1] + up * ring - height * (1 - np.sign(up)) / 2
    return np.column_stack([left, bottom, left + width, bottom + height])


def _overlap(boxes: Array, others: Array) -> Array:
    """For each box the area that it shares with the others together, in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area: Array = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return area
