"""Tables for choosing a file: its size, Top-1 and predictions, and its inference time, each beside the original's."""

from collections.abc import Callable
from typing import NamedTuple

from reports import text
from reports.model import Baseline, Report, Row
from reports.rows import baseline, baseline_top1, loss, unique_rows
from reports.text import MISSING, row_name
from reports.verdict import baseline_interval, interval

ORIGINAL = "Original, float32"


class Column(NamedTuple):
    """A column: its title, its cell in a row's line, and its cell in the baseline's line."""

    title: str
    cell: Callable[[Row], str]
    baseline_cell: Callable[[Baseline], str] = lambda base: MISSING


def choice_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw one line per file, the largest first, with its size and Top-1 beside the original's; empty without rows.

    Columns of figures that no row has are left out.
    """
    headers, lines = choice_lines(report)
    return text.draw(headers, [cells for _, cells in lines], 1, style) if report.rows else ""


def choice_lines(report: Report) -> tuple[list[str], list[tuple[Row | None, list[str]]]]:
    """Return the titles of the table and, for each line, its row and its cells; the original's line has no row."""
    rows = sorted(unique_rows(report), key=lambda row: -(row.size_mb or 0.0))
    columns = [*_sizes(report), *_top1(report), *_top5(report, rows), *_paired(rows)]
    base = baseline(report)
    lines: list[tuple[Row | None, list[str]]] = [(None, [ORIGINAL, *(each.baseline_cell(base) for each in columns)])]
    lines += [(row, [row_name(row), *(each.cell(row) for each in columns)]) for row in rows]
    return ["File of", *(column.title for column in columns)], lines


def inference_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the time for one image of each file beside the original's; empty if no row was measured."""
    rows = [row for row in unique_rows(report) if row.inference_ms is not None]
    headers = ["File of", "Original, PyTorch (ms)", "Artifact, PyTorch (ms)"]
    lines = [[row_name(row), *map(text.milliseconds, (row.original_inference_ms, row.inference_ms))] for row in rows]
    if any(row.onnx_inference_ms is not None for row in rows):
        headers.append("ONNX, onnxruntime on the CPU (ms)")
        lines = [[*line, text.milliseconds(row.onnx_inference_ms)] for line, row in zip(lines, rows, strict=True)]
    return text.draw(headers, lines, 1, style) if lines else ""


def times_smaller(report: Report, row: Row) -> float | None:
    """Return the size of the baseline's file divided by the size of the row's; None if either was not measured."""
    before = baseline(report).size_mb
    return None if before is None or row.size_mb is None else before / row.size_mb


def ratio_column(report: Report) -> Column:
    """Return the column of ``times_smaller``."""
    return Column(
        "Times smaller",
        lambda row: text.ratio(times_smaller(report, row)),
        lambda base: text.ratio(base.size_mb and 1.0),
    )


def change(report: Report, row: Row) -> float | None:
    """Return the row's Top-1 minus the baseline's; None if either was not measured."""
    lost = loss(report, row)
    return None if lost is None else -lost


def _sizes(report: Report) -> list[Column]:
    return [
        Column("Size (MB)", lambda row: text.megabytes(row.size_mb), lambda base: text.megabytes(base.size_mb)),
        ratio_column(report),
    ]


def _top1(report: Report) -> list[Column]:
    return [
        Column("Top1", lambda row: text.points(row.top1_quant), lambda base: text.points(base.top1)),
        Column(
            "95 % interval",
            lambda row: text.span(interval(report, row.top1_quant)),
            lambda base: text.span(baseline_interval(report)),
        ),
        Column("Δ baseline", lambda row: text.signed(change(report, row))),
        *_own_baselines(report),
    ]


def _own_baselines(report: Report) -> list[Column]:
    """Return the column of the baseline of a row's own run, if runs of a merged report have different ones."""
    if all(row.baseline_top1 is None for row in report.rows):
        return []
    return [Column("Its baseline", lambda row: text.points(baseline_top1(report, row)))]


def _top5(report: Report, rows: list[Row]) -> list[Column]:
    if baseline(report).top5 is None and all(row.top5_quant is None for row in rows):
        return []
    return [Column("Top5", lambda row: text.points(row.top5_quant), lambda base: text.points(base.top5))]


def _paired(rows: list[Row]) -> list[Column]:
    if all(row.agreement is None for row in rows):
        return []
    return [
        Column("Same predictions (%)", lambda row: text.points(row.agreement)),
        Column("Images lost", lambda row: text.count(row.images_lost)),
        Column("Images gained", lambda row: text.count(row.images_gained)),
        Column("McNemar p", lambda row: text.probability(row.mcnemar_p)),
    ]
