"""Plot of file size against Top-1: every row, the baseline, lines through targets, frontiers of bases and of dense."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.model import DENSE, Report, Row
from reports.plots import style
from reports.plots.labels import Label, place_labels
from reports.plots.rings import Mark, draw_rings
from reports.rows import MeasuredRow, baseline, bases, frontier, measured, unique_rows
from reports.text import basis_name, bits_name, brief, model_name, row_name, with_settings
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

LOG_RANGE = 8
"""Largest ratio of two sizes on a linear axis; a wider range is drawn on a logarithmic axis."""


class Canvas(NamedTuple):
    """Size of the plot in inches, columns of its legend, and the largest number of labels."""

    width: float = 9
    height: float = 6.2
    columns: int = 4
    labels: int | None = None


def size_figure(report: Report, canvas: Canvas = Canvas()) -> "Figure":  # noqa: B008 - it is immutable
    """Draw one mark per row: file size in MB on x, Top-1 with its 95 % interval on y.

    A line joins the rows of a config and basis with target sizes. Other lines join the rows of fixed widths that no
    other row of their kind beats in both size and Top-1. The artists of a row have the group id of ``mark_id``.
    """
    figure = style.new_figure(canvas.width, canvas.height)
    axis = figure.subplots()
    rows = measured(unique_rows(report))
    dense = [each for each in rows if each.row.is_dense]
    fixed = [each for each in rows if not each.row.is_dense and not each.row.has_target]
    for basis in bases(report):
        own = [each for each in fixed if each.row.basis == basis]
        _draw_rows(axis, own, report, _basis_style(basis), basis_name(basis))
    _draw_targets(axis, [each for each in rows if each.row.has_target], report)
    _draw_rows(axis, dense, report, _DENSE, "Conv2D (dense), quantized")
    _draw_frontier(axis, fixed, style.INK, "-", "Frontier of bases")
    _draw_frontier(axis, dense, style.DENSE_COLOR, "--", "Dense frontier")
    base = _draw_baseline(axis, report)
    _dress(axis, [each.size_mb for each in rows] + base, report)
    draw_rings(axis, [_mark(each) for each in _in_drawing_order(rows)] + _baseline_mark(report))
    figure.legend(loc="outside lower center", ncols=canvas.columns, frameon=False, fontsize=9)
    place_labels(axis, _chosen(rows, canvas.labels))
    return figure


def mark_id(row: Row) -> str:
    """Return the group id of a row's marks: a hash of its name, because a name may hold any character."""
    return f"mark-{hashlib.sha256(f'{row.basis} {row_name(row)}'.encode()).hexdigest()[:16]}"


def _basis_style(basis: str) -> dict[str, Any]:
    color = style.basis_color(basis)
    shape = {"marker": style.basis_marker(basis), "markersize": style.basis_size(basis)}
    return _MARK | shape | {"color": color, "ecolor": (color, 0.45)}


def _in_drawing_order(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    return sorted(rows, key=lambda each: (each.row.has_target, each.row.is_dense, each.row.basis != "cosine"))


def _mark(each: MeasuredRow) -> Mark:
    row = each.row
    if row.is_dense:
        return Mark(each.size_mb, each.top1, _DENSE["markersize"], style.DENSE_COLOR, mark_id(row))
    size = style.basis_size(row.basis) + (1 if row.has_target else 0)
    return Mark(each.size_mb, each.top1, size, style.basis_color(row.basis), mark_id(row))


def _baseline_mark(report: Report) -> list[Mark]:
    base = baseline(report)
    if base.size_mb is None or base.top1 is None:
        return []
    return [Mark(base.size_mb, base.top1, _STAR["markersize"], _STAR["color"])]


def _draw_rows(axis: "Axes", rows: Sequence[MeasuredRow], report: Report, look: dict[str, Any], name: str) -> None:
    for place, each in enumerate(rows):
        label = name if place == 0 else "_nolegend_"
        bars = _error_bars(each.top1, interval(report, each.top1))
        drawn = axis.errorbar([each.size_mb], [each.top1], yerr=bars, label=label, **look)
        for artist in drawn.get_children():
            artist.set_gid(mark_id(each.row))


def _draw_targets(axis: "Axes", rows: Sequence[MeasuredRow], report: Report) -> None:
    """Draw the rows of targets, and a line through the rows of each basis, config and run."""
    lines: dict[str, list[MeasuredRow]] = {}
    for each in sorted(rows, key=lambda each: each.size_mb):
        name = with_settings(f"{basis_name(each.row.basis)} {each.row.config}, at a target", each.row)
        lines.setdefault(name, []).append(each)
    for name, own in lines.items():
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
    axis.errorbar([base.size_mb], [base.top1], yerr=bars, label="Baseline", **_STAR)
    return [base.size_mb]


def _dress(axis: "Axes", sizes: Sequence[float], report: Report) -> None:
    """Set scales, titles and grid."""
    if min(sizes) > 0 and max(sizes) > LOG_RANGE * min(sizes):
        _log_ticks(axis)
    axis.margins(x=0.14, y=0.14)
    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, 100 + 0.05 * (100 - low)))
    data = report.run.dataset
    where = f"{data.name}, {data.test_images:,} test images" if data else "unnamed data"
    axis.set_xlabel("File size (MB, 10⁶ bytes)", color=style.INK)
    axis.set_ylabel("Top-1 (%), with its 95 % interval", color=style.INK)
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


def _chosen(rows: Sequence[MeasuredRow], most: int | None) -> list[Label]:
    """Return every label if there are at most ``most``, else labels spread over the frontier."""
    every = _labels(rows)
    if most is None or len(every) <= most:
        return every
    best = _labels(frontier(rows))
    last, steps = len(best) - 1, min(most, len(best)) - 1
    return [best[round(step * last / steps)] for step in range(steps + 1)] if steps else best[:most]


def _labels(rows: Sequence[MeasuredRow]) -> list[Label]:
    """Return one label per config and bits, at the highest of its marks whatever their basis."""
    best: dict[tuple[str, str], MeasuredRow] = {}
    for each in sorted(rows, key=lambda each: each.top1):
        best[(each.row.config, bits_name(each.row))] = each
    return [
        Label(
            bits if each.row.has_target else brief(f"{DENSE if each.row.is_dense else config}, {bits}"),
            each.size_mb,
            each.top1,
            mark_id(each.row),
        )
        for (config, bits), each in best.items()
    ]
