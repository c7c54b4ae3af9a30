"""Marks of the size plot, which report.md and the page draw alike: names, order, lines and labels."""

from collections.abc import Sequence
from typing import Final

from reports.model import DENSE, Row
from reports.rows import MeasuredRow
from reports.text import basis_name, bits_name, brief, with_settings

SIZE_TITLE: Final = "File size (MB, 10⁶ bytes)"
TOP1_TITLE: Final = "Top-1 (%), with its 95 % interval"

DENSE_NAME: Final = "Conv2D (dense), quantized"
BASELINE_NAME: Final = "Baseline"
FRONTIER_NAME: Final = "Frontier of bases"
DENSE_FRONTIER_NAME: Final = "Dense frontier"
RING_NAME: Final = "Ring: a further row there"

_LOG_RANGE: Final = 8
"""Largest ratio of two sizes on a linear axis; a wider range is drawn on a logarithmic axis."""


def on_log_axis(sizes: Sequence[float]) -> bool:
    """Return True if the range of the sizes needs a logarithmic axis."""
    return min(sizes) > 0 and max(sizes) > _LOG_RANGE * min(sizes)


def legend_name(row: Row) -> str:
    """Return the name of a row's mark in the legend: its basis, its line of targets, or dense."""
    if row.is_dense:
        return DENSE_NAME
    return brief(line_name(row)) if row.has_target else basis_name(row.basis)


def line_name(row: Row) -> str:
    """Return the name of the line through the rows of targets that a row belongs to."""
    return with_settings(f"{basis_name(row.basis)} {row.config}, at a target", row)


def in_drawing_order(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Return the rows in the order of their marks, the lowest first."""
    return sorted(rows, key=lambda each: (each.row.has_target, each.row.is_dense, each.row.basis != "cosine"))


def fixed_rows(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Return the series rows of a fixed number of bits."""
    return [each for each in rows if not each.row.is_dense and not each.row.has_target]


def target_lines(rows: Sequence[MeasuredRow]) -> dict[str, list[MeasuredRow]]:
    """Return the rows of targets, the smallest first, by the name of their line."""
    lines: dict[str, list[MeasuredRow]] = {}
    for each in sorted((each for each in rows if each.row.has_target), key=lambda each: each.size_mb):
        lines.setdefault(line_name(each.row), []).append(each)
    return lines


def labels(rows: Sequence[MeasuredRow]) -> list[tuple[str, MeasuredRow]]:
    """Return one label per config and bits, with the highest of its marks whatever their basis."""
    best: dict[tuple[str, str], MeasuredRow] = {}
    for each in sorted(rows, key=lambda each: each.top1):
        best[(each.row.config, bits_name(each.row))] = each
    return [
        (bits if each.row.has_target else brief(f"{DENSE if each.row.is_dense else config}, {bits}"), each)
        for (config, bits), each in best.items()
    ]
