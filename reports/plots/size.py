"""Plot of file size against Top-1: every row, the baseline, lines through targets, frontiers of bases and of dense."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.model import Report
from reports.plots import marks, style
from reports.plots.labels import Label, place_labels
from reports.plots.rings import Mark, draw_rings
from reports.rows import MeasuredRow, baseline, bases, frontier, measured, unique_rows
from reports.text import basis_name, brief, model_name
from reports.verdict import baseline_interval, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLAIN: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white"}
_MARK = _PLAIN | {"elinewidth": 0.9, "capsize": 2, "zorder": 3}
_DENSE = _MARK | {"marker": "^", "markersize": 8, "color": style.DENSE_COLOR, "ecolor": (style.DENSE_COLOR, 0.45)}
_STAR = _PLAIN | {
    "marker": "*",
    "markersize": 17,
    "color": style.BASELINE_COLOR,
    "zorder": 4,
    "elinewidth": 1.6,
    "capsize": 4,
}


def size_figure(report: Report) -> "Figure":
    """Draw one mark per row: file size in MB on x, Top-1 with its 95 % interval on y.

    A line joins the rows of a config and basis with target sizes. Other lines join the rows of fixed widths that no
    other row of their kind beats in both size and Top-1.
    """
    figure = style.new_figure(9, 6.2)
    axis = figure.subplots()
    rows = measured(unique_rows(report))
    dense = [each for each in rows if each.row.is_dense]
    fixed = marks.fixed_rows(rows)
    for basis in bases(report):
        own = [each for each in fixed if each.row.basis == basis]
        _draw_rows(axis, own, report, _basis_style(basis), basis_name(basis))
    _draw_targets(axis, rows, report)
    _draw_rows(axis, dense, report, _DENSE, marks.DENSE_NAME)
    _draw_frontier(axis, fixed, style.INK, "-", marks.FRONTIER_NAME)
    _draw_frontier(axis, dense, style.DENSE_COLOR, "--", marks.DENSE_FRONTIER_NAME)
    base = _draw_baseline(axis, report)
    _dress(axis, [each.size_mb for each in rows] + base, report)
    draw_rings(axis, [_mark(each) for each in marks.in_drawing_order(rows)] + _baseline_mark(report))
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    place_labels(axis, [Label(text, each.size_mb, each.top1) for text, each in marks.labels(rows)])
    return figure


def _basis_style(basis: str) -> dict[str, Any]:
    color = style.basis_color(basis)
    shape = {"marker": style.basis_marker(basis), "markersize": style.basis_size(basis)}
    return _MARK | shape | {"color": color, "ecolor": (color, 0.45)}


def _mark(each: MeasuredRow) -> Mark:
    row = each.row
    if row.is_dense:
        return Mark(each.size_mb, each.top1, _DENSE["markersize"], style.DENSE_COLOR)
    size = style.basis_size(row.basis) + (1 if row.has_target else 0)
    return Mark(each.size_mb, each.top1, size, style.basis_color(row.basis))


def _baseline_mark(report: Report) -> list[Mark]:
    base = baseline(report)
    if base.size_mb is None or base.top1 is None:
        return []
    return [Mark(base.size_mb, base.top1, _STAR["markersize"], _STAR["color"])]


def _draw_rows(axis: "Axes", rows: Sequence[MeasuredRow], report: Report, look: dict[str, Any], name: str) -> None:
    for place, each in enumerate(rows):
        label = name if place == 0 else "_nolegend_"
        bars = _error_bars(each.top1, interval(report, each.top1))
        axis.errorbar([each.size_mb], [each.top1], yerr=bars, label=label, **look)


def _draw_targets(axis: "Axes", rows: Sequence[MeasuredRow], report: Report) -> None:
    """Draw the rows of targets, and a line through the rows of each basis, config and run."""
    for name, own in marks.target_lines(rows).items():
        basis = own[0].row.basis
        shape = {"marker": style.TARGET_MARKER, "markersize": 1 + style.basis_size(basis), "zorder": 5}
        look = _basis_style(basis) | shape
        axis.plot([each.size_mb for each in own], [each.top1 for each in own], color=look["color"], linewidth=1.6)
        _draw_rows(axis, own, report, look | {"linestyle": "-", "linewidth": 1.6}, brief(name))


def _error_bars(top1: float, ends: tuple[float, float] | None) -> tuple[list[float], list[float]] | None:
    """Return the interval's length below and above a Top-1; None if its ends are not known."""
    return None if ends is None else ([max(0.0, top1 - ends[0])], [max(0.0, ends[1] - top1)])


def _draw_frontier(axis: "Axes", rows: Sequence[MeasuredRow], color: str, line: str, name: str) -> None:
    best = frontier(rows)
    if len(best) > 1:
        sizes, tops = [each.size_mb for each in best], [each.top1 for each in best]
        axis.plot(sizes, tops, color=color, linestyle=line, linewidth=1.2, alpha=0.75, label=name, zorder=2)


def _draw_baseline(axis: "Axes", report: Report) -> list[float]:
    """Draw the baseline as a star, its interval as a band, and return its size if it was measured."""
    base = baseline(report)
    if base.size_mb is None or base.top1 is None:
        return []
    ends = baseline_interval(report)
    if ends:
        axis.axhspan(*ends, color=_STAR["color"], alpha=0.13, linewidth=0, zorder=0.5)
    bars = _error_bars(base.top1, ends)
    axis.errorbar([base.size_mb], [base.top1], yerr=bars, label=marks.BASELINE_NAME, **_STAR)
    return [base.size_mb]


def _dress(axis: "Axes", sizes: Sequence[float], report: Report) -> None:
    """Set scales, titles and grid."""
    if marks.on_log_axis(sizes):
        _log_ticks(axis)
    axis.margins(x=0.14, y=0.14)
    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, 100 + 0.05 * (100 - low)))
    data = report.run.dataset
    where = f"{data.name}, {data.test_images:,} test images" if data else "unnamed data"
    axis.set_xlabel(marks.SIZE_TITLE, color=style.INK)
    axis.set_ylabel(marks.TOP1_TITLE, color=style.INK)
    axis.set_title(f"{model_name(report.run.model)} on {where}", fontsize=11, parse_math=False)
    axis.grid(color=style.GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _log_ticks(axis: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
