"""The poster's two tables: quantization, and Top-1 before and after fine-tuning."""

from collections.abc import Callable, Sequence
from typing import Any

from reports import text
from reports.rows import Report, Row, baseline_top1, bases, is_dense, side_by_side
from reports.text import DENSE, basis_name, config_name, settings_name, width_name

Column = tuple[str, Callable[[Any], str], str]

_QUANTIZATION: tuple[Column, ...] = (
    ("Top1", text.points, "top1_post"),
    ("Quant. Top1", text.points, "top1_quant"),
    ("Δ", text.signed, "delta_quant"),
)
_PRE_POST: tuple[Column, ...] = (
    ("Pre Top1", text.points, "top1_pre"),
    ("Post Top1", text.points, "top1_post"),
    ("Δ", text.signed, "delta_post"),
)
_SIZES: tuple[Column, ...] = (
    ("#Params", text.count, "params"),
    ("Model size (MB)", text.megabytes, "size_mb"),
    ("Poster's formula (MB)", text.megabytes, "poster_size_mb"),
)
_SHARES: tuple[Column, ...] = (
    ("#Params", text.count, "params"),
    ("%", text.points, "params_percent"),
    ("#Comp. params", text.count, "compressible_params"),
)


def quantization_table(report: Report, style: text.Style = "markdown") -> str:
    """The poster's quantization table, CosConv and ChebConv side by side where both were run.

    The baseline comes first, in 32-bit floating point. Minifloats show their stored bits beside their bits. `Δ` is
    the change by quantization alone. The size is that of the written file; beside it stands the size that the
    poster's formula gives.
    """
    columns = bases(report) or [DENSE]
    labels = _labels(report)
    headers = ["Bits", "Config", *labels, *_titles(_QUANTIZATION, columns, style), *_names(_SIZES)]
    base = report["baseline"]
    first = [
        "32",
        "Conv2D",
        *map(_no_label, labels),
        *[text.points(base.get("top1")), "-", "-"] * len(columns),
        *_values(_SIZES, [base]),
    ]
    rows = [_quantized_line(line, columns, labels) for line in side_by_side(report)]
    return text.draw(headers, [first, *rows], (1, 2) if labels else (1,), style)


def pre_post_table(report: Report, style: text.Style = "markdown") -> str:
    """The poster's Pre/Post table: Top-1 after the fit, and after fine-tuning, with Δ against the baseline."""
    columns = bases(report) or [DENSE]
    shares = [column for column in _SHARES if column[2] != "compressible_params" or _has_compressible(report)]
    labels = _labels(report)
    headers = ["Config", *labels, *_titles(_PRE_POST, columns, style), *_names(shares)]
    base = {"params_percent": 100.0, **report["baseline"]}
    first = [
        "Conv2D",
        *map(_no_label, labels),
        *["-", text.points(base.get("top1")), "-"] * len(columns),
        *_values(shares, [base]),
    ]
    lines = [_pre_post_line(line, columns, labels, shares) for line in side_by_side(report) if _trained(line, report)]
    lines = [list(line) for line in dict.fromkeys(map(tuple, lines))]
    return text.draw(headers, [first, *lines], 1 + len(labels), style)


def result_table(report: Report) -> str:
    """The final table for a terminal: the quantization table in plain text."""
    return quantization_table(report, "plain")


def _titles(group: Sequence[Column], columns: Sequence[str], style: text.Style) -> list[str]:
    """The group's titles once a basis, each with the basis' name; on two lines in plain text."""
    gap = "\n" if style == "plain" else " "
    return [
        title if basis == DENSE else f"{basis_name(basis)}{gap}{title}" for basis in columns for title in _names(group)
    ]


def _names(group: Sequence[Column]) -> list[str]:
    return [title for title, _, _ in group]


def _values(group: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """One cell a column: the figure that the rows share, or the different ones with a slash between them."""
    return [" / ".join(dict.fromkeys(show(row.get(key)) for row in rows)) for _, show, key in group]


def _per_basis(group: Sequence[Column], line: dict[str, Row], columns: Sequence[str]) -> list[str]:
    return [show(line.get(basis, {}).get(key)) for basis in columns for _, show, key in group]


def _labels(report: Report) -> list[str]:
    """The title of the column that tells the runs of a merged report apart, where they differ in any setting."""
    return ["Settings"] if any(settings_name(row) for row in report["rows"]) else []


def _no_label(title: str) -> str:
    return text.MISSING


def _label(labels: Sequence[str], row: Row) -> list[str]:
    return [settings_name(row) or text.MISSING] * len(labels)


def _in_order(line: dict[str, Row], columns: Sequence[str]) -> list[Row]:
    return [line[basis] for basis in columns if basis in line]


def _quantized_line(line: dict[str, Row], columns: Sequence[str], labels: Sequence[str]) -> list[str]:
    rows = _in_order(line, columns)
    head = [width_name(rows[0]), config_name(rows[0]["config"]), *_label(labels, rows[0])]
    return [*head, *_per_basis(_QUANTIZATION, line, columns), *_values(_SIZES, rows)]


def _pre_post_line(
    line: dict[str, Row], columns: Sequence[str], labels: Sequence[str], shares: Sequence[Column]
) -> list[str]:
    rows = _in_order(line, columns)
    name = "Conv2D, fine-tuned" if is_dense(rows[0]) else rows[0]["config"]
    return [name, *_label(labels, rows[0]), *_per_basis(_PRE_POST, line, columns), *_values(shares, rows)]


def _trained(line: dict[str, Row], report: Report) -> bool:
    """Whether the line says more than the baseline does: a dense network that was not trained further does not."""
    rows = line.values()
    return any(not is_dense(row) or row.get("top1_post") not in (None, baseline_top1(report, row)) for row in rows)


def _has_compressible(report: Report) -> bool:
    return any(row.get("compressible_params") is not None for row in report["rows"])
