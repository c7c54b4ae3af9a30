"""The gate of a run: the limits that every row must keep, and by how much a row misses them."""

from collections.abc import Sequence
from typing import Any

# Top-1 is a multiple of 1/images, so a billionth of a point is rounding, not a loss.
_ROUNDING = 1e-9


def judge(
    rows: Sequence[dict[str, Any]],
    baseline_top1: float | None,
    *,
    max_drop: float | None = None,
    max_size_mb: float | None = None,
) -> dict[str, Any]:
    """Hold every row of a report against the limits.

    Args:
        rows: The report's rows; a row whose figure was not measured misses a limit that is set on it.
        baseline_top1: The uncompressed network's Top-1, in percent; None where it was not measured.
        max_drop: Points of Top-1 that a row may lose against the baseline; None sets no limit.
        max_size_mb: The most that a row's artifact may take, in 10^6 bytes; None sets no limit.

    Returns:
        ``max_drop``, ``max_size_mb``, ``passed`` (None where no limit is set or there is no row) and ``failures``: one
        sentence for each row that misses.
    """
    misses = [(row, [*_drop(row, baseline_top1, max_drop), *_size(row, max_size_mb)]) for row in rows]
    failures = [f"{_name(row)} {' and '.join(words)}" for row, words in misses if words]
    judged = bool(rows) and (max_drop, max_size_mb) != (None, None)
    passed = not failures if judged else None
    return {"max_drop": max_drop, "max_size_mb": max_size_mb, "passed": passed, "failures": failures}


def _drop(row: dict[str, Any], baseline: float | None, limit: float | None) -> list[str]:
    if limit is None:
        return []
    if baseline is None or row["top1_quant"] is None:
        return ["has no measured change of Top-1"]
    loss = baseline - row["top1_quant"]
    if loss <= limit + _ROUNDING:
        return []
    return [f"loses {_figure(loss)} points of Top-1, {_figure(loss - limit)} more than --max-drop {limit:g} allows"]


def _size(row: dict[str, Any], limit: float | None) -> list[str]:
    if limit is None:
        return []
    if row["size_mb"] is None:
        return ["has no measured size"]
    size = row["size_mb"]
    if size <= limit:
        return []
    return [f"takes {size:g} MB, {_figure(size - limit)} more than --max-size-mb {limit:g} allows"]


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _name(row: dict[str, Any]) -> str:
    return f"{row['basis']} {row['config']} at {row['bits']} bits"
