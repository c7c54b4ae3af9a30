"""The poster's two tables: quantization, and Top-1 before and after fine-tuning."""

from collections.abc import Sequence

from reports import text
from reports.choice import Column, ratio_column
from reports.model import DENSE, Report, Row
from reports.rows import baseline, baseline_top1, bases, fine_tuned, side_by_side
from reports.text import MISSING, basis_name, config_name, settings_name, width_name

_QUANTIZATION = (
    Column("Top1", lambda row: text.points(row.top1_post), lambda base: text.points(base.top1)),
    Column("Quant. Top1", lambda row: text.points(row.top1_quant)),
    Column("Δ quant.", lambda row: text.signed(row.delta_quant)),
    Column("Δ baseline", lambda row: text.signed(row.delta_baseline)),
)
_PRE = (
    Column("Fit Top1", lambda row: text.points(row.top1_pre), lambda base: text.points(base.top1)),
    Column("Δ", lambda row: text.signed(row.delta_post)),
)
"""Columns of a run without fine-tuning."""
_PRE_POST = (
    Column("Pre Top1", lambda row: text.points(row.top1_pre)),
    Column("Post Top1", lambda row: text.points(row.top1_post), lambda base: text.points(base.top1)),
    Column("Δ", lambda row: text.signed(row.delta_post)),
)
_PARAMS = Column("#Params", lambda row: text.count(row.params), lambda base: text.count(base.params))
_SIZE = Column("Model size (MB)", lambda row: text.megabytes(row.size_mb), lambda base: text.megabytes(base.size_mb))
_POSTER_SIZE = Column("Poster's formula (MB)", lambda row: text.megabytes(row.poster_size_mb))
_SHARES = (_PARAMS, Column("%", lambda row: text.points(row.params_percent), lambda base: text.points(100.0)))
_COMPRESSIBLE = Column("#Comp. params", lambda row: text.count(row.compressible_params))


def quantization_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the poster's quantization table, with CosConv and ChebConv side by side if both were run.

    The first line is the baseline in 32-bit floating point. Minifloats show their stored bits after their bits.
    ``Δ quant.`` is the change of Top-1 by quantization alone, ``Δ baseline`` the whole change. Rows of a target have no
    width, so their target is in the first column. The sizes are the written file's, with its ratio to the baseline's,
    and the poster's formula's.
    """
    columns = bases(report) or [DENSE]
    labels = _labels(report)
    sizes = (_PARAMS, _SIZE, ratio_column(report), _POSTER_SIZE)
    headers = [text.width_heading(report.rows), "Config", *labels, *_titles(_QUANTIZATION, columns), *_names(sizes)]
    rows = [_quantized_line(line, columns, labels, sizes) for line in side_by_side(report)]
    float32 = ["32", "Conv2D", *_baseline_line(report, columns, labels, _QUANTIZATION, sizes)]
    return text.draw(_wrapped(headers, style), [float32, *rows], (1, 2) if labels else (1,), style)


def pre_post_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the poster's Pre/Post table: Top-1 after the fit and after fine-tuning, with ``Δ`` against the baseline.

    A run without fine-tuning has only the Top-1 after the fit.
    """
    columns = bases(report) or [DENSE]
    counted = any(row.compressible_params is not None for row in report.rows)
    shares = (*_SHARES, _COMPRESSIBLE) if counted else _SHARES
    labels = _labels(report)
    tops = _PRE_POST if fine_tuned(report) else _PRE
    headers = ["Config", *labels, *_titles(tops, columns), *_names(shares)]
    first = ["Conv2D", *_baseline_line(report, columns, labels, tops, shares)]
    kept = [line for line in side_by_side(report) if _trained(line, report)]
    lines = [_pre_post_line(line, columns, labels, tops, shares) for line in kept]
    lines = [list(line) for line in dict.fromkeys(map(tuple, lines))]
    return text.draw(_wrapped(headers, style), [first, *lines], 1 + len(labels), style)


def result_table(report: Report) -> str:
    """Draw the quantization table in plain text, for a terminal."""
    return quantization_table(report, "plain")


def _titles(group: Sequence[Column], columns: Sequence[str]) -> list[str]:
    """Return the group's titles for each basis, preceded by the basis' name."""
    return [title if basis == DENSE else f"{basis_name(basis)} {title}" for basis in columns for title in _names(group)]


def _wrapped(headers: Sequence[str], style: text.Style) -> list[str]:
    """Return the headers with one word a line in plain text, so that a terminal shows the table unbroken."""
    return [header.replace(" ", "\n") if style == "plain" else header for header in headers]


def _names(group: Sequence[Column]) -> list[str]:
    return [column.title for column in group]


def _labels(report: Report) -> list[str]:
    """Return the title of the settings column, if any row of a merged report has settings."""
    return ["Settings"] if any(row.settings for row in report.rows) else []


def _baseline_line(
    report: Report,
    columns: Sequence[str],
    labels: Sequence[str],
    per_basis: Sequence[Column],
    shared: Sequence[Column],
) -> list[str]:
    base = baseline(report)
    figures = [column.baseline_cell(base) for column in per_basis] * len(columns)
    return [MISSING] * len(labels) + figures + [column.baseline_cell(base) for column in shared]


def _quantized_line(
    line: dict[str, Row], columns: Sequence[str], labels: Sequence[str], sizes: Sequence[Column]
) -> list[str]:
    rows = _in_order(line, columns)
    head = [width_name(rows[0]), config_name(rows[0].config), *_label(labels, rows[0])]
    return [*head, *_per_basis(_QUANTIZATION, line, columns), *_shared(sizes, rows)]


def _pre_post_line(
    line: dict[str, Row],
    columns: Sequence[str],
    labels: Sequence[str],
    tops: Sequence[Column],
    shares: Sequence[Column],
) -> list[str]:
    rows = _in_order(line, columns)
    name = "Conv2D, fine-tuned" if rows[0].is_dense else rows[0].config
    return [name, *_label(labels, rows[0]), *_per_basis(tops, line, columns), *_shared(shares, rows)]


def _in_order(line: dict[str, Row], columns: Sequence[str]) -> list[Row]:
    return [line[basis] for basis in columns if basis in line]


def _label(labels: Sequence[str], row: Row) -> list[str]:
    return [settings_name(row.settings) or MISSING] * len(labels)


def _per_basis(group: Sequence[Column], line: dict[str, Row], columns: Sequence[str]) -> list[str]:
    return [column.cell(line[basis]) if basis in line else MISSING for basis in columns for column in group]


def _shared(group: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Return one cell per column: the figure that the rows share, or the different figures with slashes between."""
    return [" / ".join(dict.fromkeys(column.cell(row) for row in rows)) for column in group]


def _trained(line: dict[str, Row], report: Report) -> bool:
    """Return True unless the line repeats the baseline (dense without training) or has no float network (a target)."""
    rows = [row for row in line.values() if not row.has_target]
    return any(not row.is_dense or row.top1_post not in (None, baseline_top1(report, row)) for row in rows)
