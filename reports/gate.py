"""What the report says of its gate: the limits, and which rows miss them."""

from reports import text
from reports.rows import Report, Row, loss, unique_rows
from reports.text import listed, row_name


def gate_words(report: Report) -> str:
    """The gate in one sentence for the summary; empty where no limit was set."""
    gate = report.get("gate") or {}
    drop, size = gate.get("max_drop"), gate.get("max_size_mb")
    if drop is None and size is None:
        return ""
    points = None if drop is None else f"{drop:g} point" if drop == 1 else f"{drop:g} points"
    if gate.get("passed") is None:
        return f"The gate ({_both(points, size, '{} allowed', '{:g} MB allowed')}) was not checked."
    if gate["passed"]:
        kept = _both(points, size, "loses more than {} of Top-1", "takes more than {:g} MB", "or")
        return f"The gate passed: no row {kept}."
    allowed = _both(points, size, "at most {} of Top-1 may be lost", "a file may take at most {:g} MB")
    misses = [f"{row_name(row)} {words}" for row in unique_rows(report) if (words := _misses(report, row, drop, size))]
    return f"The gate FAILED: {allowed}; {listed(misses) or 'a Top-1 that it needs was not measured'}."


def gate_list(report: Report) -> str:
    """Every row that misses, as markdown; empty where none does."""
    return "\n".join(f"- {text.escape(failure)}" for failure in (report.get("gate") or {}).get("failures") or [])


def _both(points: str | None, size: float | None, drop_words: str, size_words: str, joint: str = "and") -> str:
    said = [drop_words.format(points)] if points is not None else []
    said += [size_words.format(size)] if size is not None else []
    return f" {joint} ".join(said)


def _misses(report: Report, row: Row, drop: float | None, size: float | None) -> str:
    lost, taken = loss(report, row), row.get("size_mb")
    words = [f"loses {lost:.2f}"] if drop is not None and lost is not None and lost > drop else []
    words += [f"takes {text.megabytes(taken)} MB"] if size is not None and taken is not None and taken > size else []
    return " and ".join(words)
