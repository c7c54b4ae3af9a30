"""Opening paragraph of a report: reduction in size, loss of Top-1, gate, rows by size, and series against dense."""

import itertools
from collections import Counter
from collections.abc import Sequence

from reports import text
from reports.gate import gate_words
from reports.model import DENSE, Report, Row
from reports.rows import MeasuredRow, baseline, baseline_top1, frontier, loss, measured, unique_rows
from reports.text import basis_name, model_name, row_name, with_settings
from reports.verdict import Outcome, Verdict, verdicts
from reports.warnings import fallen_rows

ALLOWED_LOSS = 1.0
"""Points of Top-1 that the row named in the summary may lose against the baseline."""

SIGNIFICANT = 0.05
"""Level of McNemar's test below which the summary calls two networks different."""

_PHRASES = {
    Outcome.WINS: "series wins",
    Outcome.SMALLER: "series is smaller with Top-1 within the 95 % interval",
    Outcome.TIES: "neither wins (a dense file no larger is within the 95 % interval)",
    Outcome.LOSES: "dense wins",
    Outcome.BETWEEN: "neither wins (no dense row is matched in both size and Top-1)",
    Outcome.BELOW: "neither wins (smaller than every dense file, and clearly worse)",
    Outcome.ABOVE: "neither wins (larger than every dense file, and clearly better)",
}
_WORDS = {
    Outcome.WINS: "better",
    Outcome.SMALLER: "smaller with Top-1 within the 95 % interval",
    Outcome.TIES: "equal within the 95 % interval",
    Outcome.LOSES: "worse",
    Outcome.BETWEEN: "between the dense rows",
    Outcome.BELOW: "smaller and worse than every dense row",
    Outcome.ABOVE: "larger and better than every dense row",
}


def summarise(report: Report) -> str:
    """Summarise a report in one paragraph.

    The paragraph names the row of ``chosen_row``. If the report has several rows, it also states the rule of the
    choice. If it has rows of targets, a sentence lists which row to take at which size.
    """
    chosen = chosen_row(report)
    if chosen is None:
        parts = ["No row has both a written file and a measured Top-1."]
    else:
        parts = [_headline(report, chosen), _paired(report, chosen.row), _rule(report, chosen.row)]
    parts += [gate_words(report), _fallen(report), _by_size(report), _against_dense(report)]
    return " ".join(part for part in parts if part)


def chosen_row(report: Report) -> MeasuredRow | None:
    """Return the smallest file among the rows that lose at most ``ALLOWED_LOSS`` points of Top-1 against the baseline.

    If every row loses more, return the row with the best Top-1; None if no row was measured.
    """
    rows = measured(unique_rows(report))
    kept = [each for each in rows if _keeps_top1(report, each.row)]
    if kept:
        return min(kept, key=lambda each: (each.size_mb, -each.top1))
    return max(rows, key=lambda each: (each.top1, -each.size_mb), default=None)


def _keeps_top1(report: Report, row: Row) -> bool:
    lost = loss(report, row)
    return lost is not None and lost <= ALLOWED_LOSS


def _headline(report: Report, chosen: MeasuredRow) -> str:
    row, model = chosen.row, model_name(report.run.model)
    before, after = baseline(report).size_mb, text.megabytes(chosen.size_mb)
    sizes = f"{model} now takes {after} MB"
    if before is not None:
        sizes = f"{model} went from {text.megabytes(before)} MB to {after} MB{_ratio(before, chosen.size_mb)}"
    how = f"{row_name(row)}, no series" if row.is_dense else row_name(row)
    return f"{sizes}, Top-1 {_top1_words(report, chosen)}: {how}."


def _top1_words(report: Report, chosen: MeasuredRow) -> str:
    before, lost = baseline_top1(report, chosen.row), loss(report, chosen.row)
    if before is None or lost is None:
        return f"{text.points(chosen.top1)} (no baseline measured)"
    change = "unchanged" if text.signed(-lost) == "0.00" else f"{text.signed(-lost)} points"
    return f"{text.points(before)} to {text.points(chosen.top1)} ({change})"


def _ratio(before: float, after: float) -> str:
    return f" ({before / after:.1f} times smaller)" if before >= after else f" ({after / before:.1f} times larger)"


def _paired(report: Report, row: Row) -> str:
    """Describe the paired test of the row against the original on the same test images."""
    data = report.run.dataset
    if data is None or row.mcnemar_p is None or row.agreement is None:
        return ""
    images = text.quantity(data.test_images, "test image")
    counts = f"On {images} it loses {row.images_lost:,} and gains {row.images_gained:,}"
    verdict = "a difference" if row.mcnemar_p < SIGNIFICANT else "no clear difference"
    p = text.probability(row.mcnemar_p)
    equation = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"{counts} against the original: {verdict} by McNemar's paired test ({equation})."


def _fallen(report: Report) -> str:
    """Count the rows that fall apart; the report lists them."""
    fallen, rows = fallen_rows(report), unique_rows(report)
    if not fallen:
        return ""
    if len(rows) == 1:
        return fallen[0]
    verb = "falls" if len(fallen) == 1 else "fall"
    return f"WARNING: {len(fallen)} of {len(rows)} rows {verb} apart (see Warnings)."


def _rule(report: Report, row: Row) -> str:
    rows = unique_rows(report)
    if len(rows) == 1:
        return ""
    allowed = f"at most {ALLOWED_LOSS:g} point of Top-1"
    if _keeps_top1(report, row):
        return f"Of {len(rows)} rows, this is the smallest file among those that lose {allowed}."
    return f"Of {len(rows)} rows, none is known to lose {allowed}; this is the one with the best Top-1."


def _by_size(report: Report) -> str:
    """Describe the Pareto frontier of size and Top-1; neighbours of one kind share a part of the sentence.

    Empty if no row has a target, or if one row is the best at every size. Example: `By size, take CosConv auto at its
    target from 0.0198 to 0.0598 MB (88.90 to 91.70); dense at 4 bits from 0.110 MB on (91.72).`
    """
    rows = measured(unique_rows(report))
    best = frontier(rows)
    if len(best) < 2 or not any(each.row.has_target for each in rows):
        return ""
    groups = [(name, list(each)) for name, each in itertools.groupby(best, lambda each: _kind(each.row))]
    return f"By size, take {'; '.join(f'{name} {_span(group)}' for name, group in groups)}."


def _kind(row: Row) -> str:
    if not row.has_target:
        return row_name(row)
    return with_settings(f"{basis_name(row.basis)} {row.config} at its target", row)


def _span(group: Sequence[MeasuredRow]) -> str:
    first, last = group[0], group[-1]
    if len(group) == 1:
        return f"from {text.megabytes(first.size_mb)} MB on ({text.points(first.top1)})"
    sizes = f"from {text.megabytes(first.size_mb)} to {text.megabytes(last.size_mb)} MB"
    return f"{sizes} ({text.points(first.top1)} to {text.points(last.top1)})"


def _against_dense(report: Report) -> str:
    """Describe the outcome of a single series row, and count the outcomes of several, which a table lists."""
    found = verdicts(report)
    if not found:
        return ""
    unknown = "" if found[0].interval else " The number of test images is not known, so no interval was applied."
    against = f"plain low-bit quantization of the {DENSE} network"
    if len(found) == 1:
        size = text.megabytes(found[0].series.size_mb)
        return f"Against {against}: {_PHRASES[found[0].outcome]} at {size} MB ({_case(found[0])}).{unknown}"
    counts = Counter(verdict.outcome for verdict in found)
    outcomes = ", ".join(f"{counts[outcome]} {_WORDS[outcome]}" for outcome in Outcome if counts[outcome])
    return f"Of {len(found)} series rows against {against}: {outcomes}.{unknown}"


def _case(verdict: Verdict) -> str:
    """Describe one row and its decisive dense row.

    Example: ``CosConv 3,3,3,2 at 4 bits, 90.20; dense at 3 bits has 90.20 in 0.101 MB``.
    """
    own = f"{row_name(verdict.series.row)}, {text.points(verdict.series.top1)}"
    dense = verdict.decisive
    if dense is None:
        return own
    return f"{own}; {row_name(dense.row)} has {text.points(dense.top1)} in {text.megabytes(dense.size_mb)} MB"
