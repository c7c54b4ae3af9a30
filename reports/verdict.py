"""Series against dense at equal bytes: whether plain low-bit quantization would have done as well.

Each series row is held against the dense rows twice: against the best one in a file no larger than its own, and
against those in files as large or larger. A difference in Top-1 counts only where the dense Top-1 lies outside the
95 % interval of the series row's (Wilson, from the number of test images). In a merged report of several seeds, a row
is held against the dense rows of its own seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from reports import text
from reports.rows import Report, Row, is_dense, measured, unique_rows
from reports.text import row_name

Z_95 = 1.959963984540054


class Outcome(StrEnum):
    """What the comparison of one series row with every dense row comes to."""

    WINS = "series wins: clearly better than a dense file as large or larger, and than every smaller one"
    SMALLER = "series is smaller: Top-1 within the interval of a larger dense file's"
    TIES = "tie: a dense file no larger is within the interval"
    LOSES = "dense wins: clearly better in a file no larger"
    BETWEEN = "neither: between the dense rows in both size and Top-1"


@dataclass(frozen=True)
class Verdict:
    """One series row held against the dense rows.

    Attributes:
        row: The series row.
        outcome: What the comparison comes to.
        smaller: The best dense row in a file no larger, if there is one.
        larger: The best dense row in a file as large or larger that the series row reaches, else the smallest such.
        interval: The 95 % interval of the series row's Top-1, None if the number of test images is not known.
    """

    row: Row
    outcome: Outcome
    smaller: Row | None
    larger: Row | None
    interval: tuple[float, float] | None

    @property
    def decisive(self) -> Row | None:
        """The dense row that decided the outcome."""
        return self.larger if self.outcome in (Outcome.WINS, Outcome.SMALLER) else self.smaller or self.larger


def verdicts(report: Report) -> list[Verdict]:
    """Every measured series row against the dense rows, smallest file first; empty where there is no dense row."""
    rows = measured(unique_rows(report))
    dense = [row for row in rows if is_dense(row)]
    series = sorted((row for row in rows if not is_dense(row)), key=lambda row: float(row["size_mb"]))
    images = (report["run"].get("dataset") or {}).get("test_images")
    rivals = [[other for other in dense if _same_seed(row, other)] for row in series]
    return [_judge(row, own, images) for row, own in zip(series, rivals, strict=True) if own]


def verdict_table(report: Report, style: text.Style = "markdown") -> str:
    """One line a series row: itself, the dense rows on either side of its size, and the outcome."""
    headers = ["Series row", "MB", "Top1", "95 % interval", "Best dense row, no larger", "Dense row, larger", "Outcome"]
    rows = [
        [
            row_name(verdict.row),
            text.megabytes(verdict.row["size_mb"]),
            text.points(verdict.row["top1_quant"]),
            text.MISSING if verdict.interval is None else "{:.2f} to {:.2f}".format(*verdict.interval),
            _against(verdict.smaller, verdict.row),
            _against(verdict.larger, verdict.row),
            verdict.outcome.value,
        ]
        for verdict in verdicts(report)
    ]
    return text.draw(headers, rows, (0, 4, 5, 6), style) if rows else ""


def wilson(top1: float, images: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial proportion (Wilson 1927), in percent.

    Unlike the normal interval it stays inside 0 to 100 and keeps its coverage near the ends, where Top-1 often is.

    Args:
        top1: Measured Top-1, in percent.
        images: Number of test images it was measured on.
        z: Quantile of the normal distribution; the default gives 95 %.

    Returns:
        The lower and the upper end, in percent.

    Raises:
        ValueError: `images` is not positive, or `top1` is not between 0 and 100.
    """
    if images < 1 or not 0 <= top1 <= 100:
        raise ValueError(f"wilson: got top1 {top1} on {images} images; 0 to 100 percent of 1 or more are allowed.")
    share = top1 / 100
    scale = 1 + z * z / images
    centre = (share + z * z / (2 * images)) / scale
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images)) / scale
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def _same_seed(row: Row, other: Row) -> bool:
    """Whether the rows are of one seed, as far as they name one."""
    seeds = [(each.get("settings") or {}).get("seed") for each in (row, other)]
    return None in seeds or seeds[0] == seeds[1]


def _judge(row: Row, dense: Sequence[Row], images: int | None) -> Verdict:
    interval = wilson(row["top1_quant"], images) if images else None
    low, high = interval or (row["top1_quant"], row["top1_quant"])
    smaller = max((d for d in dense if d["size_mb"] <= row["size_mb"]), key=_quality, default=None)
    above = [d for d in dense if d["size_mb"] >= row["size_mb"]]
    reached = max((d for d in above if d["top1_quant"] <= high), key=_quality, default=None)
    larger = reached or min(above, key=lambda d: float(d["size_mb"]), default=None)
    return Verdict(row, _outcome(low, high, smaller, reached), smaller, larger, interval)


def _quality(row: Row) -> tuple[float, float]:
    return row["top1_quant"], row["size_mb"]


def _outcome(low: float, high: float, smaller: Row | None, reached: Row | None) -> Outcome:
    if smaller is not None and smaller["top1_quant"] > high:
        return Outcome.LOSES
    if smaller is not None and smaller["top1_quant"] >= low:
        return Outcome.TIES
    if reached is None:
        return Outcome.BETWEEN
    return Outcome.WINS if reached["top1_quant"] < low else Outcome.SMALLER


def _against(dense: Row | None, row: Row) -> str:
    if dense is None:
        return text.MISSING
    change = text.signed(row["top1_quant"] - dense["top1_quant"])
    size, top1 = text.megabytes(dense["size_mb"]), text.points(dense["top1_quant"])
    return f"{row_name(dense)}: {size} MB, {top1} (series {change})"
