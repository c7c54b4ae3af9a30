"""Selection, order and pairing of a report's rows.

A row is one combination of basis, config and bits or target. A run writes the rows of ``dense`` once per basis with
identical figures; the functions here count them once and show them in the column of every basis. In a merged report,
the settings of a row distinguish rows of different runs.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from reports.model import DENSE, Baseline, Report, Row
from reports.text import settings_name


class Key(NamedTuple):
    """Fields that a line of a table shares: those of a row but its basis.

    Attributes:
        bits: Bits; 0 for a row of a target.
        stored_bits: Stored bits; 0 for a row of a target.
        target_mb: Target size; 0 without one.
        target_drop: Target loss; 0 without one.
        config: Config.
        settings: Settings of the run in a merged report.
        number: Distinguishes rows of one basis with equal other fields.
    """

    bits: int
    stored_bits: int
    target_mb: float
    target_drop: float
    config: str
    settings: str
    number: int = 0

    @property
    def place(self) -> tuple[object, ...]:
        """Place in a table: from most to fewest bits, then from the largest to the smallest target, dense first."""
        return (-self.bits, -self.stored_bits, -self.target_mb, self.target_drop, self.config != DENSE)


class MeasuredRow(NamedTuple):
    """A row whose file size and quantized Top-1 were measured.

    Attributes:
        row: The row.
        size_mb: Size of its file, in 10^6 bytes.
        top1: Top-1 of the quantized network, in percent.
    """

    row: Row
    size_mb: float
    top1: float


def baseline(report: Report) -> Baseline:
    """Return the uncompressed network of a report.

    Raises:
        ValueError: The report has none, because its run failed.
    """
    if report.baseline is None:
        raise ValueError(f"baseline: got a report with status {report.status}; allowed: a report with a baseline")
    return report.baseline


def baseline_top1(report: Report, row: Row) -> float | None:
    """Return the Top-1 of the uncompressed network of the row's own run, in percent."""
    return baseline(report).top1 if row.baseline_top1 is None else row.baseline_top1


def bases(report: Report) -> list[str]:
    """Return the bases of the series rows, CosConv first as on the poster; empty if every row is dense."""
    found = dict.fromkeys(row.basis for row in report.rows if not row.is_dense)
    return sorted(found, key=lambda basis: (basis != "cosine", basis != "chebyshev"))


def side_by_side(report: Report) -> list[dict[str, Row]]:
    """Group rows into table lines: one line per bits or target, config and settings, with the row of each basis.

    Returns:
        One dict {basis: row} per line, ordered from most to fewest bits; targets follow, the largest first. Within
        equal bits, dense comes first and configs keep the run's order. A dense line holds a row for every basis, or
        the single key ``dense`` if the report has no series rows.
    """
    lines: dict[Key, dict[str, Row]] = {}
    for key, row in _keyed(report.rows):
        lines.setdefault(key, {})[row.basis] = row
    columns = bases(report) or [DENSE]
    for key, line in lines.items():
        if key.config == DENSE:
            first = next(iter(line.values()))
            line.update({basis: line.get(basis, first) for basis in columns})
    return [lines[key] for key in sorted(lines, key=lambda key: key.place)]


def unique_rows(report: Report) -> list[Row]:
    """Return the rows in the run's order, with each dense row once however many bases repeat it."""
    seen: set[Key] = set()
    kept = []
    for key, row in _keyed(report.rows):
        if row.is_dense and key in seen:
            continue
        seen.add(key)
        kept.append(row)
    return kept


def measured(rows: Iterable[Row]) -> list[MeasuredRow]:
    """Return the rows that have both a file size and a quantized Top-1."""
    return [
        MeasuredRow(row, row.size_mb, row.top1_quant)
        for row in rows
        if row.size_mb is not None and row.top1_quant is not None
    ]


def frontier(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Return the Pareto frontier: the rows that no other row beats in both size and Top-1, smallest first."""
    ordered = sorted(rows, key=lambda row: (row.size_mb, -row.top1))
    best = accumulate((row.top1 for row in ordered), max, initial=float("-inf"))
    return [row for row, before in zip(ordered, best, strict=False) if row.top1 > before]


def fine_tuned(report: Report) -> bool:
    """Return True if a row was fine-tuned, or trained through the rounding for a target."""
    return any(row.epochs for row in report.rows)


def loss(report: Report, row: Row) -> float | None:
    """Return the points of Top-1 lost against the baseline; None if either Top-1 was not measured.

    The loss is rounded to 6 decimals, because subtraction of two percentages leaves binary noise.
    """
    before, after = baseline_top1(report, row), row.top1_quant
    return None if before is None or after is None else round(before - after, 6)


def _keyed(rows: Sequence[Row]) -> list[tuple[Key, Row]]:
    seen: Counter[tuple[str, Key]] = Counter()
    keyed: list[tuple[Key, Row]] = []
    for row in rows:
        width = (row.bits or 0, row.stored_bits or 0, row.target_mb or 0, row.target_drop or 0)
        key = Key(*width, row.config, settings_name(row.settings))
        keyed.append((key._replace(number=seen[row.basis, key]), row))
        seen[row.basis, key] += 1
    return keyed
