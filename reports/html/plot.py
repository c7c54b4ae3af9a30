"""Content of the page's size plot: its marks, their looks, words and labels, its lines and its axes."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

from reports.choice import ORIGINAL
from reports.model import Report, Row
from reports.plots import marks, style
from reports.plots.rings import ring_sizes
from reports.rows import MeasuredRow, baseline, frontier, measured, unique_rows
from reports.text import megabytes, points, row_name, span
from reports.verdict import baseline_interval, interval

_MARGIN: Final = 0.1
"""Space between the outermost marks and the frame, as a share of the range of the marks."""
_FRAME: Final = (600, 300)
"""Width and height of the plot in points, by which marks coincide. A page has no fixed width."""

Range = tuple[float, float]


class Look(NamedTuple):
    """Look of marks: their name in the legend, colour in CSS, marker in matplotlib, and diameter in points."""

    name: str
    color: str
    marker: str
    size: float = 0


class File(NamedTuple):
    """A file in the plot.

    Attributes:
        row: Number of its row; None for the original.
        look: Look of its mark.
        name: Name of its row.
        size_mb: Size, in 10^6 bytes.
        top1: Top-1, in percent.
        ends: 95 % interval of the Top-1; None if it is not known.
    """

    row: int | None
    look: Look
    name: str
    size_mb: float
    top1: float
    ends: Range | None

    @property
    def words(self) -> str:
        """Words for the mark: ``CosConv 3,3,2,2 at 4 bits: 0.0553 MB, Top-1 87.80 (84.64 to 90.38)``."""
        figures = f"{megabytes(self.size_mb)} MB, Top-1 {points(self.top1)}"
        return f"{self.name}: {figures}" + (f" ({span(self.ends)})" if self.ends else "")


class Line(NamedTuple):
    """A line through files, the smallest first, and True if the pickers hide its files' part of it."""

    look: Look
    files: list[File]
    picked: bool


class Axis(NamedTuple):
    """Range of an axis, and True if the axis is logarithmic."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value on the axis, from 0 at the low end to 1 at the high end."""
        low, high, own = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        return (own - low) / (high - low)


class Plot(NamedTuple):
    """Content of the plot.

    Attributes:
        files: The files in the order of their marks, the lowest first; the original is the last one.
        lines: Frontiers, and lines through targets.
        labels: Labels of rows on a frontier, by the numbers of the rows, the most important first.
        size: Axis of the sizes.
        top1: Axis of Top-1.
    """

    files: list[File]
    lines: list[Line]
    labels: dict[int, str]
    size: Axis
    top1: Axis

    def rings(self) -> list[float]:
        """Return the diameter of the ring around each mark that another one hides, in points; 0 for the other marks."""
        places = [
            (_FRAME[0] * self.size.place(file.size_mb), _FRAME[1] * self.top1.place(file.top1)) for file in self.files
        ]
        return ring_sizes(places, [file.look.size for file in self.files])


def size_plot(report: Report) -> Plot | None:
    """Return the content of the plot of file size against Top-1; None without measured rows."""
    numbers = {id(row): number for number, row in enumerate(unique_rows(report))}
    rows = marks.in_drawing_order(measured(unique_rows(report)))
    if not rows:
        return None
    files = {numbers[id(each.row)]: _file(report, each, numbers[id(each.row)]) for each in rows}

    def line(look: Look, own: Sequence[MeasuredRow], picked: bool) -> Line:
        return Line(look, [files[numbers[id(each.row)]] for each in own], picked)

    dense = [each for each in rows if each.row.is_dense]
    frontiers = [
        line(Look(marks.FRONTIER_NAME, "var(--ink)", "-"), frontier(marks.fixed_rows(rows)), False),
        line(Look(marks.DENSE_FRONTIER_NAME, "var(--dense)", "--"), frontier(dense), False),
    ]
    targets = [line(_look(own[0].row), own, True) for own in marks.target_lines(rows).values()]
    lines = [each for each in (*frontiers, *targets) if len(each.files) > 1]
    every = [*files.values(), *_original(report)]
    labels = {numbers[id(each.row)]: text for text, each in _labels(rows)}
    return Plot(every, lines, labels, _size_axis(every), _top1_axis(every))


def described(report: Report) -> str:
    """Return the words that stand for the plot where it is not seen."""
    base = baseline(report)
    return (
        f"Plot of file size against Top-1 of {len(measured(unique_rows(report)))} files and the original "
        f"({megabytes(base.size_mb)} MB, Top-1 {points(base.top1)}). The table below has the figures."
    )


def _file(report: Report, each: MeasuredRow, number: int) -> File:
    row, size, top1 = each
    return File(number, _look(row), row_name(row), size, top1, interval(report, top1))


def _original(report: Report) -> list[File]:
    base = baseline(report)
    if base.size_mb is None or base.top1 is None:
        return []
    look = Look(marks.BASELINE_NAME, "var(--baseline)", "*", 17)
    return [File(None, look, ORIGINAL, base.size_mb, base.top1, baseline_interval(report))]


def _look(row: Row) -> Look:
    if row.is_dense:
        return Look(marks.DENSE_NAME, "var(--dense)", "^", 8)
    marker, size = style.basis_marker(row.basis), style.basis_size(row.basis)
    if row.has_target:
        marker, size = style.TARGET_MARKER, size + 1
    return Look(marks.legend_name(row), f"var(--{row.basis})", marker, size)


def _labels(rows: Sequence[MeasuredRow]) -> list[tuple[str, MeasuredRow]]:
    """Return a label for each row of the frontier of all rows, then of the series rows, then of the dense rows."""
    parts = (rows, marks.fixed_rows(rows), [each for each in rows if each.row.is_dense])
    return [label for part in parts for label in marks.labels(frontier(part))]


def _size_axis(files: Sequence[File]) -> Axis:
    sizes = [file.size_mb for file in files]
    if marks.on_log_axis(sizes):
        low, high = _widened(math.log(min(sizes)), math.log(max(sizes)))
        return Axis(math.exp(low), math.exp(high), log=True)
    return Axis(*_widened(min(sizes), max(sizes)))


def _top1_axis(files: Sequence[File]) -> Axis:
    """Return the axis of Top-1, which ends a little above 100 at most."""
    ends = list(chain.from_iterable((file.top1, *(file.ends or ())) for file in files))
    low, high = _widened(min(ends), max(ends))
    return Axis(low, min(high, 100 + 0.05 * (100 - low)))


def _widened(low: float, high: float) -> Range:
    margin = _MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
