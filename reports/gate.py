"""Gate of a report: compare every row with the limits, and describe the rows that fail.

Loss of Top-1 and file size are compared only if a limit is set. A row of a target is compared with its target. A row
whose reloaded network differs always fails.
"""

from collections.abc import Sequence
from typing import NamedTuple

from reports import text
from reports.model import DENSE, Gate, Report, Row
from reports.rows import baseline_top1 as baseline_top1_of
from reports.rows import unique_rows
from reports.text import bits_name, listed, row_name, target_name

SMALLEST_SHARE = 0.97
"""Least size of the file of a target size, as a share of the target."""
_BYTE = 1e-6
"""One byte in MB (10^6 bytes)."""
_ROUNDING = 1e-9
"""Points of Top-1. Top-1 is a multiple of 100 / images, so a smaller excess is floating-point noise."""


def judge(
    rows: Sequence[Row],
    baseline_top1: float | None,
    *,
    max_drop: float | None = None,
    max_size_mb: float | None = None,
) -> Gate:
    """Compare every row with the limits.

    A row fails if it exceeds a limit, if it misses its target, if a figure that a limit needs was not measured, or if
    its reloaded network differs from the measured one.

    Args:
        rows: The report's rows.
        baseline_top1: Top-1 of the uncompressed network, in percent; None if it was not measured.
        max_drop: Points of Top-1 that a row may lose against the baseline; None sets no limit.
        max_size_mb: Largest allowed size of a row's artifact, in 10^6 bytes; None sets no limit.

    Returns:
        The limits, the verdict, and one sentence for each row that fails; dense rows of several bases share one.
        ``passed`` is False if a row fails. Otherwise it is True if a limit or a target was compared with at least one
        row, else None.
    """
    targets = sum(row.has_target for row in rows)
    gate = Gate(max_drop=max_drop, max_size_mb=max_size_mb, targets=targets, passed=None)
    misses = [(row, _misses(row, baseline_top1, gate)) for row in rows]
    sentences = [f"{_named(row)} {' and '.join(miss.sentence for miss in found)}" for row, found in misses if found]
    gate.failures = list(dict.fromkeys(sentences))  # each basis repeats the dense rows
    limited = bool(targets) or (bool(rows) and (max_drop, max_size_mb) != (None, None))
    gate.passed = False if gate.failures else True if limited else None
    return gate


def _named(row: Row) -> str:
    return f"{DENSE if row.is_dense else f'{row.basis} {row.config}'} at {bits_name(row)}"


def has_target_size(size_mb: float, target_mb: float) -> bool:
    """Return True if a file is at most its target size and at least ``SMALLEST_SHARE`` of it, up to rounding of floats.

    Args:
        size_mb: Size of the file, in 10^6 bytes.
        target_mb: Target size, in 10^6 bytes.
    """
    return SMALLEST_SHARE * target_mb - _BYTE / 2 < size_mb < target_mb + _BYTE / 2


def keeps_to(loss: float, limit: float) -> bool:
    """Return True if a loss of Top-1 is at most its limit, up to rounding of floats; both in points."""
    return loss <= limit + _ROUNDING


def gate_words(report: Report) -> str:
    """Describe the gate in one sentence for the summary; empty if no limit was set and no row failed."""
    gate = report.gate
    drop, size = gate.max_drop, gate.max_size_mb
    if drop is None and size is None and gate.passed is None:
        return ""
    if drop is None and size is None and gate.passed:
        return "The gate passed: every row meets its target."
    points = None if drop is None else f"{drop:g} point" if drop == 1 else f"{drop:g} points"
    if gate.passed is None:
        return f"The gate ({_both(points, size, '{} allowed', '{:g} MB allowed')}) was not checked."
    if gate.passed:
        kept = _both(points, size, "loses more than {} of Top-1", "takes more than {:g} MB", "or")
        return f"The gate passed: no row {kept}{', and every target is met' if gate.targets else ''}."
    allowed = _both(points, size, "at most {} of Top-1 may be lost", "a file may take at most {:g} MB")
    return f"The gate FAILED: {'; '.join(part for part in (allowed, _failed(report)) if part)}."


class _Miss(NamedTuple):
    """One reason why a row fails, as the report's sentence and in short for the summary."""

    sentence: str
    short: str


def _misses(row: Row, baseline_top1: float | None, gate: Gate) -> list[_Miss]:
    found = (_drop(row, baseline_top1, gate.max_drop), _size(row, gate.max_size_mb), _target(row), _reload(row))
    return [miss for miss in found if miss is not None]


def _drop(row: Row, baseline_top1: float | None, limit: float | None) -> _Miss | None:
    if limit is None:
        return None
    if baseline_top1 is None or row.top1_quant is None:
        return _Miss(*2 * ("has no measured change of Top-1",))
    loss = baseline_top1 - row.top1_quant
    if keeps_to(loss, limit):
        return None
    excess = f"{loss - limit:.4g} more than --max-drop {limit:g} allows"
    return _Miss(f"loses {loss:.4g} points of Top-1, {excess}", f"loses {loss:.2f}")


def _size(row: Row, limit: float | None) -> _Miss | None:
    if limit is None:
        return None
    if row.size_mb is None:
        return _Miss(*2 * ("has no measured size",))
    if row.size_mb <= limit:
        return None
    excess = f"{row.size_mb - limit:.4g} more than --max-size-mb {limit:g} allows"
    return _Miss(f"takes {row.size_mb:g} MB, {excess}", f"takes {text.megabytes(row.size_mb)} MB")


def _target(row: Row) -> _Miss | None:
    if row.target_mb is not None:
        return _target_size(row, row.target_mb)
    if row.target_drop is None or row.target_met:
        return None
    words = f"loses more than {target_name(row)} of Top-1 on held-out training images"
    return _Miss(f"{words}, which --target-drop {row.target_drop:g} allows", words)


def _target_size(row: Row, target: float) -> _Miss | None:
    if row.size_mb is None:
        return _Miss(*2 * ("has no measured size",))
    least = SMALLEST_SHARE * target
    if row.target_met and has_target_size(row.size_mb, target):
        return None
    words = f"takes {row.size_mb:g} MB"
    return _Miss(f"{words}, but --target-mb {target:.12g} allows {least:g} to {target:.12g} MB", words)


def _reload(row: Row) -> _Miss | None:
    if not row.reloaded_logits_max_abs_diff:
        return None
    words = f"differs by up to {text.error(row.reloaded_logits_max_abs_diff)} in a logit"
    return _Miss(f"{words} after its artifact was reloaded; allowed: 0", f"{words} after it was reloaded")


def _both(points: str | None, size: float | None, drop_words: str, size_words: str, joint: str = "and") -> str:
    limits = [drop_words.format(points)] if points is not None else []
    limits += [size_words.format(size)] if size is not None else []
    return f" {joint} ".join(limits)


def _failed(report: Report) -> str:
    """Return the failed rows with their reasons in short."""
    rows = [(row, _misses(row, baseline_top1_of(report, row), report.gate)) for row in unique_rows(report)]
    words = [f"{row_name(row)} {' and '.join(miss.short for miss in found)}" for row, found in rows if found]
    return listed(words or report.gate.failures)
