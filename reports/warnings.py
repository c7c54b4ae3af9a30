"""Warnings of a report: rows whose network falls apart."""

from reports.model import Report, Row
from reports.rows import baseline_top1, loss, unique_rows
from reports.text import points, row_name
from reports.verdict import near_chance

FALLEN_POINTS = 10.0
"""Points of Top-1 against the baseline. A row that loses more falls apart."""


def fallen_rows(report: Report) -> list[str]:
    """Return a sentence for each row that falls apart: near chance, or more than ``FALLEN_POINTS`` below the baseline.

    A row counts as near chance only if the baseline is not; see ``reports.verdict.near_chance``.
    """
    found = [(row, _reason(report, row)) for row in unique_rows(report)]
    return [f"{row_name(row)} falls apart: {reason}." for row, reason in found if reason]


def _reason(report: Report, row: Row) -> str:
    top1, lost, data = row.top1_quant, loss(report, row), report.run.dataset
    if top1 is None:
        return ""
    if data is not None and _near_chance(report, top1) and not _near_chance(report, baseline_top1(report, row)):
        guess = f"{points(100 / data.classes)} of guessing one of {data.classes:,} classes"
        return f"its Top-1 of {points(top1)} is near the {guess}"
    if lost is None or lost <= FALLEN_POINTS:
        return ""
    return f"its Top-1 of {points(top1)} is {points(lost)} points below the baseline's"


def _near_chance(report: Report, top1: float | None) -> bool:
    data = report.run.dataset
    return data is not None and top1 is not None and near_chance(top1, data.test_images, data.classes)
