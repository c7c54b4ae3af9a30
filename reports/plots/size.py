"""File size against Top-1: every row, the baseline, and the frontiers of series and of dense."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.plots import style
from reports.plots.labels import Label, place_labels
from reports.rows import Report, Row, bases, frontier, is_dense, measured, unique_rows
from reports.text import basis_name, bits_name, model_name
from reports.verdict import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PLAIN: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white"}
_MARK = _PLAIN | {"elinewidth": 0.9, "capsize": 2, "zorder": 3}
_DENSE = _MARK | {"marker": "^", "markersize": 8, "color": style.DENSE_COLOR, "ecolor": (style.DENSE_COLOR, 0.45)}
_STAR = _PLAIN | {"marker": "*", "markersize": 17, "color": "#e0a800", "zorder": 4}

LOG_RANGE = 8
"""Sizes that span more than this factor are drawn on a logarithmic axis."""


def size_figure(report: Report) -> "Figure":
    """File size in MB on x, Top-1 on y with its 95 % interval, one mark a row.

    Lines join the rows that no other row of their kind beats in both size and Top-1.
    """
    figure = style.new_figure(9, 5.8)
    axis = figure.subplots()
    rows = measured(unique_rows(report))
    dense, series = [row for row in rows if is_dense(row)], [row for row in rows if not is_dense(row)]
    for basis in bases(report):
        own = [row for row in series if row["basis"] == basis]
        _draw_rows(axis, own, report, _basis_style(basis), basis_name(basis))
    _draw_rows(axis, dense, report, _DENSE, "Conv2D (dense), quantized")
    _draw_frontier(axis, series, style.INK, "-", "Series frontier")
    _draw_frontier(axis, dense, style.DENSE_COLOR, "--", "Dense frontier")
    base = _draw_baseline(axis, report)
    _dress(axis, [row["size_mb"] for row in rows] + base, report)
    place_labels(axis, _labels(rows))
    return figure


def _basis_style(basis: str) -> dict[str, Any]:
    color = style.basis_color(basis)
    shape = {"marker": style.basis_marker(basis), "markersize": style.basis_size(basis)}
    return _MARK | shape | {"color": color, "ecolor": (color, 0.45)}


def _draw_rows(axis: "Axes", rows: Sequence[Row], report: Report, style: dict[str, Any], name: str) -> None:
    if rows:
        sizes, tops = [row["size_mb"] for row in rows], [row["top1_quant"] for row in rows]
        axis.errorbar(sizes, tops, yerr=_error_bars(tops, report), label=name, **style)


def _error_bars(tops: Sequence[float], report: Report) -> tuple[list[float], list[float]] | None:
    """Lengths below and above each Top-1, None where the number of test images is not known."""
    images = (report["run"].get("dataset") or {}).get("test_images")
    if not images:
        return None
    ends = [wilson(top1, images) for top1 in tops]
    pairs = list(zip(tops, ends, strict=True))
    return [max(0.0, top1 - low) for top1, (low, _) in pairs], [max(0.0, high - top1) for top1, (_, high) in pairs]


def _draw_frontier(axis: "Axes", rows: Sequence[Row], color: str, line: str, name: str) -> None:
    best = frontier(rows)
    if len(best) > 1:
        sizes, tops = [row["size_mb"] for row in best], [row["top1_quant"] for row in best]
        axis.plot(sizes, tops, color=color, linestyle=line, linewidth=1.2, alpha=0.75, label=name, zorder=2)


def _draw_baseline(axis: "Axes", report: Report) -> list[float]:
    """Draw the baseline as a star, and give back its size where it has one."""
    base = report["baseline"]
    if base.get("size_mb") is None or base.get("top1") is None:
        return []
    axis.plot([base["size_mb"]], [base["top1"]], label="Baseline", **_STAR)
    return [float(base["size_mb"])]


def _dress(axis: "Axes", sizes: Sequence[float], report: Report) -> None:
    """Scales, titles, grid and legend."""
    if min(sizes) > 0 and max(sizes) > LOG_RANGE * min(sizes):
        _log_ticks(axis)
    axis.margins(x=0.14, y=0.14)
    low, high = axis.get_ylim()
    axis.set_ylim(low, min(high, 100 + 0.05 * (100 - low)))
    data = report["run"].get("dataset") or {}
    images = f", {data['test_images']:,} test images" if data.get("test_images") else ""
    axis.set_xlabel("File size (MB, 10⁶ bytes)", color=style.INK)
    axis.set_ylabel("Top-1 (%), with its 95 % interval", color=style.INK)
    axis.set_title(f"{model_name(report['run']['model'])} on {data.get('name', 'unnamed data')}{images}", fontsize=11)
    axis.grid(color=style.GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _log_ticks(axis: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _labels(rows: Sequence[Row]) -> list[Label]:
    """One label for each config and bits: at the highest of the marks that share it, whatever their basis."""
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: float(row["top1_quant"])):
        best[(row["config"], bits_name(row))] = row
    return [
        Label(f"{'dense' if is_dense(row) else config}, {bits}", row["size_mb"], row["top1_quant"])
        for (config, bits), row in best.items()
    ]
