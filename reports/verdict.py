"""Compare series rows with dense rows of equal size: is a series better than plain low-bit quantization?

Each series row is compared with the best dense row in a file no larger than its own, and with the dense rows in files
as large or larger. A difference in Top-1 counts only if the dense Top-1 lies outside the 95 % Wilson interval of the
series row's Top-1. In a merged report of several seeds, a row is compared with the dense rows of its own seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from reports import text
from reports.model import Report, Row
from reports.rows import MeasuredRow, baseline, measured, unique_rows
from reports.text import row_name

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


class Outcome(StrEnum):
    """Result of comparing one series row with every dense row."""

    WINS = "series wins: clearly better than a dense file as large or larger, and than every smaller one"
    SMALLER = "series is smaller: a larger dense file has a Top-1 within the interval of the series row"
    TIES = "tie: a dense file no larger is within the interval"
    LOSES = "dense wins: clearly better in a file no larger"
    BETWEEN = "neither: between the dense rows in both size and Top-1"
    BELOW = "neither: smaller than every dense file, and clearly worse"
    ABOVE = "neither: larger than every dense file, and clearly better"


@dataclass(frozen=True)
class Verdict:
    """Comparison of one series row with the dense rows.

    Attributes:
        series: The series row.
        outcome: Result of the comparison.
        smaller: The best dense row in a file no larger; None if there is none.
        larger: The best dense row in a file as large or larger whose Top-1 the series row reaches. If it reaches none,
            the smallest dense row of that size; None if there is none.
        interval: The 95 % interval of the series row's Top-1; None if the number of test images is not known.
    """

    series: MeasuredRow
    outcome: Outcome
    smaller: MeasuredRow | None
    larger: MeasuredRow | None
    interval: tuple[float, float] | None

    @property
    def decisive(self) -> MeasuredRow | None:
        """The dense row that decided the outcome."""
        return self.larger if self.outcome in (Outcome.WINS, Outcome.SMALLER) else self.smaller or self.larger


def verdicts(report: Report) -> list[Verdict]:
    """Compare every measured series row with the dense rows, smallest file first; empty if there is no dense row."""
    rows = measured(unique_rows(report))
    dense = [each for each in rows if each.row.is_dense]
    series = sorted((each for each in rows if not each.row.is_dense), key=lambda each: each.size_mb)
    images = report.run.dataset.test_images if report.run.dataset else None
    rivals = [[other for other in dense if _same_seed(each.row, other.row)] for each in series]
    return [_compare(each, own, images) for each, own in zip(series, rivals, strict=True) if own]


def verdict_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw one line per series row, with the dense rows just below and above its size, and the outcome."""
    headers = ["Series row", "MB", "Top1", "95 % interval", "Best dense row, no larger", "Dense row, larger", "Outcome"]
    rows = [
        [
            row_name(verdict.series.row),
            text.megabytes(verdict.series.size_mb),
            text.points(verdict.series.top1),
            text.span(verdict.interval),
            _against(verdict.smaller, verdict.series),
            _against(verdict.larger, verdict.series),
            verdict.outcome.value,
        ]
        for verdict in verdicts(report)
    ]
    return text.draw(headers, rows, (0, 4, 5, 6), style) if rows else ""


def wilson(top1: float, images: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval of a binomial proportion (Wilson 1927), in percent.

    Unlike the normal interval, it stays inside 0 to 100 and keeps its coverage near the ends, where Top-1 often lies.

    Args:
        top1: Measured Top-1, in percent.
        images: Number of test images.
        z: Quantile of the normal distribution; the default yields the 95 % interval.

    Returns:
        The lower and the upper end, in percent.

    Raises:
        ValueError: ``images`` is not positive, or ``top1`` is not between 0 and 100.
    """
    if images < 1 or not 0 <= top1 <= 100:
        raise ValueError(f"wilson: got top1 {top1} on {images} images; allowed: 0 to 100 percent of 1 or more images")
    share = top1 / 100
    scale = 1 + z * z / images
    centre = (share + z * z / (2 * images)) / scale
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images)) / scale
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def near_chance(top1: float, images: int, classes: int) -> bool:
    """Return True if a Top-1 is near chance, 100 / classes, or below.

    It is at most 1.5 times chance (62.5 for two classes). Or it is at most 2 times chance (75), and its 95 % interval
    reaches down to chance.

    Args:
        top1: Measured Top-1, in percent.
        images: Number of test images.
        classes: Number of classes.
    """
    chance = 100 / classes
    step = min(0.5 * chance, 0.25 * (100 - chance))
    return top1 <= chance + step or (wilson(top1, images)[0] <= chance and top1 <= chance + 2 * step)


def interval(report: Report, top1: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a Top-1 on the report's test images; None if one of both is not known."""
    data = report.run.dataset
    return None if data is None or top1 is None else wilson(top1, data.test_images)


def baseline_interval(report: Report) -> tuple[float, float] | None:
    """Return the 95 % interval of the baseline's Top-1; None if it is not known, or if the Top-1 is a mean of seeds."""
    base = baseline(report)
    return None if base.top1_by_seed else interval(report, base.top1)


def _same_seed(row: Row, other: Row) -> bool:
    seeds = [(each.settings or {}).get("seed") for each in (row, other)]
    return None in seeds or seeds[0] == seeds[1]


def _compare(series: MeasuredRow, dense: Sequence[MeasuredRow], images: int | None) -> Verdict:
    interval = wilson(series.top1, images) if images else None
    low, high = interval or (series.top1, series.top1)
    smaller = max((d for d in dense if d.size_mb <= series.size_mb), key=_quality, default=None)
    above = [d for d in dense if d.size_mb >= series.size_mb]
    reached = max((d for d in above if d.top1 <= high), key=_quality, default=None)
    larger = reached or min(above, key=lambda d: d.size_mb, default=None)
    return Verdict(series, _outcome(low, high, smaller, reached, larger), smaller, larger, interval)


def _quality(row: MeasuredRow) -> tuple[float, float]:
    return row.top1, row.size_mb


def _outcome(
    low: float, high: float, smaller: MeasuredRow | None, reached: MeasuredRow | None, larger: MeasuredRow | None
) -> Outcome:
    if smaller is not None and smaller.top1 > high:
        return Outcome.LOSES
    if smaller is not None and smaller.top1 >= low:
        return Outcome.TIES
    if reached is not None:
        return Outcome.WINS if reached.top1 < low else Outcome.SMALLER
    if smaller is None:
        return Outcome.BELOW
    return Outcome.ABOVE if larger is None else Outcome.BETWEEN


def _against(dense: MeasuredRow | None, series: MeasuredRow) -> str:
    if dense is None:
        return text.MISSING
    change = text.signed(series.top1 - dense.top1)
    return f"{row_name(dense.row)}: {text.megabytes(dense.size_mb)} MB, {text.points(dense.top1)} (series {change})"
