"""The paragraph a report opens with: what was gained, what was lost, and whether series or dense wins, honestly."""

from collections.abc import Sequence

from reports import text
from reports.gate import gate_words
from reports.rows import Report, Row, baseline_top1, is_dense, loss, measured, unique_rows
from reports.text import DENSE, LISTED, listed, model_name, row_name
from reports.verdict import Outcome, Verdict, verdicts

ALLOWED_LOSS = 1.0
"""Points of Top-1 that the row named first may lose against the baseline."""

_PHRASES = {
    Outcome.WINS: "series wins",
    Outcome.SMALLER: "series is smaller with Top-1 within the 95 % interval",
    Outcome.TIES: "neither wins (a dense file no larger is within the 95 % interval)",
    Outcome.LOSES: "dense wins",
    Outcome.BETWEEN: "neither wins (no dense row is matched in both size and Top-1)",
}


def summarise(report: Report) -> str:
    """The summary of a report in one plain paragraph.

    The row it names is the smallest file among the rows that lose at most `ALLOWED_LOSS` points of Top-1 against the
    baseline; where every row loses more, the row with the best Top-1. The rule is said where there are several rows.
    """
    row = chosen_row(report)
    parts = [_headline(report, row) if row else "No row has both a written file and a measured Top-1."]
    parts += [_rule(report, row)] if row and len(unique_rows(report)) > 1 else []
    return " ".join(part for part in [*parts, gate_words(report), _against_dense(report)] if part)


def chosen_row(report: Report) -> Row | None:
    """The row that the summary names, None when no row was measured."""
    rows = measured(unique_rows(report))
    kept = [row for row in rows if _keeps_top1(report, row)]
    if kept:
        return min(kept, key=lambda row: (row["size_mb"], -row["top1_quant"]))
    return max(rows, key=lambda row: (row["top1_quant"], -row["size_mb"]), default=None)


def _keeps_top1(report: Report, row: Row) -> bool:
    lost = loss(report, row)
    return lost is not None and lost <= ALLOWED_LOSS


def _headline(report: Report, row: Row) -> str:
    base, lost = report["baseline"], loss(report, row)
    before, after = text.megabytes(base.get("size_mb")), text.megabytes(row["size_mb"])
    how = f"{row_name(row)}, no series" if is_dense(row) else row_name(row)
    sizes = f"{model_name(report['run']['model'])} went from {before} MB to {after} MB"
    if base.get("size_mb") is None:
        sizes = f"{model_name(report['run']['model'])} now takes {after} MB"
    change = "" if lost is None else f" ({_points(-lost)})"
    top1 = f"{text.points(baseline_top1(report, row))} to {text.points(row['top1_quant'])}"
    if baseline_top1(report, row) is None:
        top1 = f"{text.points(row['top1_quant'])} (no baseline measured)"
    return f"{sizes}{_ratio(base.get('size_mb'), row['size_mb'])}, Top-1 {top1}{change}: {how}."


def _points(change: float) -> str:
    return "unchanged" if text.signed(change) == "0.00" else f"{text.signed(change)} points"


def _ratio(before: float | None, after: float) -> str:
    if not before or not after:
        return ""
    return f" ({before / after:.1f} times smaller)" if before >= after else f" ({after / before:.1f} times larger)"


def _rule(report: Report, row: Row) -> str:
    allowed = f"at most {ALLOWED_LOSS:g} point of Top-1"
    rows = unique_rows(report)
    if _keeps_top1(report, row):
        return f"Of {len(rows)} rows, this is the smallest file among those that lose {allowed}."
    return f"Of {len(rows)} rows, none is known to lose {allowed}; this is the one with the best Top-1."


def _against_dense(report: Report) -> str:
    found = verdicts(report)
    if not found:
        return ""
    groups = [(outcome, [verdict for verdict in found if verdict.outcome is outcome]) for outcome in Outcome]
    said = [f"{_PHRASES[outcome]} {_cases(group, len(found))}" for outcome, group in groups if group]
    unknown = "" if found[0].interval else " The number of test images is not known, so no interval was applied."
    return f"Against plain low-bit quantization of the {DENSE} network: {'; '.join(said)}.{unknown}"


def _cases(group: Sequence[Verdict], total: int) -> str:
    """Where one outcome was found: each row if the report has few, else their number, sizes and best row."""
    sizes = [text.megabytes(one.row["size_mb"]) for one in group]
    if total <= LISTED:
        each = [f"{size} MB ({_case(one)})" for size, one in zip(sizes, group, strict=True)]
        return f"at {listed(each)}"
    span = f"at {sizes[0]} MB" if sizes[0] == sizes[-1] else f"from {sizes[0]} to {sizes[-1]} MB"
    best = max(group, key=lambda one: float(one.row["top1_quant"]))
    return f"in {len(group)} of {total} series rows, {span} (the best: {_case(best)})"


def _case(verdict: Verdict) -> str:
    """One row and the dense row that decided: `CosConv 3,3,3,2 at 4 bits, 90.20; dense at 3 bits has 90.20 in ...`."""
    row, dense = verdict.row, verdict.decisive
    own = f"{row_name(row)}, {text.points(row['top1_quant'])}"
    if dense is None:
        return own
    size, top1 = text.megabytes(dense["size_mb"]), text.points(dense["top1_quant"])
    return f"{own}; {row_name(dense)} has {top1} in {size} MB"
