"""Placement of text labels beside the marks of a plot, so that labels overlap neither each other nor the marks.

Boxes are arrays of shape (n, 4) in pixels: left, bottom, right, top.
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
"""Half the side of the square covered by a mark and by a point of a line, in pixels."""
_STEP = 6
"""Distance between the sampled points of a line, in pixels."""
_RINGS = (9, 16, 26, 38, 52, 68, 86, 106)
"""Candidate distances from mark to label, in points."""
_SIDES = ((1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))
_CORNERS = ((1, 1.6), (-1, 1.6), (1, -1.6), (-1, -1.6))
_PLACES = np.array([(ring, *direction) for ring in _RINGS for direction in _SIDES + _CORNERS], dtype=np.float64)


class Label(NamedTuple):
    """Text of the mark at (x, y), in data coordinates."""

    text: str
    x: float
    y: float


def place_labels(axis: "Axes", labels: Sequence[Label]) -> None:
    """Write each label at the candidate place of least overlap and distance, with a thin line to its mark.

    The placement is greedy and deterministic, from the top of the plot down. Call this function after everything else
    is drawn and the axes have their final limits.
    """
    style.fix_layout(axis.figure.get_figure(root=True))
    axis.set_xlim(axis.get_xlim())
    axis.set_ylim(axis.get_ylim())
    taken = _covered(axis)
    for label in sorted(labels, key=lambda label: (-label.y, label.x, label.text)):
        taken = np.vstack([taken, _place(axis, label, taken)])


def _covered(axis: "Axes") -> Array:
    """Return boxes around the marks, and thin boxes along the lines and error bars."""
    lines = [np.asarray(line.get_xydata()) for line in axis.lines]
    bars = [np.asarray(bar) for each in axis.collections for bar in getattr(each, "get_segments", list)()]
    runs: list[Array] = [axis.transData.transform(run) for run in (*lines, *bars) if len(run)]
    marks = [_around(run, _MARK) for run in runs[: len(lines)]]
    return np.vstack([*marks, *(_around(_sampled(run), _LINE) for run in runs), np.empty((0, 4))])


def _sampled(run: Array) -> Array:
    """Return points every ``_STEP`` pixels along the line through the given points."""
    pairs = itertools.pairwise(run)
    steps = [np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / _STEP)) for start, end in pairs]
    return np.concatenate(steps) if steps else np.empty((0, 2))


def _around(points: Array, half: float) -> Array:
    return np.hstack([points - half, points + half])


def _place(axis: "Axes", label: Label, taken: Array) -> Array:
    """Write one label at the place of least cost, and return its box."""
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
    """Return the label's box at every candidate place around its mark, nearest first."""
    ring, across, up = scale * _PLACES[:, 0], _PLACES[:, 1], _PLACES[:, 2]
    left = mark[0] + across * ring - width * (1 - across) / 2
    bottom = mark[1] + up * ring - height * (1 - np.sign(up)) / 2
    return np.column_stack([left, bottom, left + width, bottom + height])


def _overlap(boxes: Array, others: Array) -> Array:
    """Return the total overlap of each box with the other boxes, in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area: Array = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return area
