"""The rows of a report: grouped, ordered and freed of repeats, before anything is drawn.

A row is one combination of basis, config and bits. `dense` rows have no basis, but a run writes them once per basis
with identical figures; here they count once, and stand in every basis' column. Rows of a merged report also have
settings: what tells their runs apart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from reports.text import DENSE, settings_name, stored_bits

Report = Mapping[str, Any]
Row = Mapping[str, Any]
Key = tuple[int, int, str, str, int]


def is_dense(row: Row) -> bool:
    """Whether the row is the network without series, only quantized."""
    return bool(row["config"] == DENSE)


def baseline_top1(report: Report, row: Row) -> float | None:
    """Top-1 of the uncompressed network that the row was made of: in a merged report, of its own run's."""
    top1: float | None = row.get("baseline_top1", report["baseline"].get("top1"))
    return top1


def bases(report: Report) -> list[str]:
    """The bases of the series rows, CosConv first as on the poster; empty when every row is dense."""
    found = dict.fromkeys(row["basis"] for row in report["rows"] if not is_dense(row))
    return sorted(found, key=lambda basis: (basis != "cosine", basis != "chebyshev"))


def _keyed(rows: Sequence[Row]) -> list[tuple[Key, Row]]:
    """Each row with (bits, stored bits, config, settings, n); n tells apart rows of a basis that share the others."""
    seen: Counter[tuple[Any, ...]] = Counter()
    keyed = []
    for row in rows:
        format = (row["bits"], stored_bits(row), row["config"], settings_name(row))
        place = (row["basis"], *format)
        keyed.append(((*format, seen[place]), row))
        seen[place] += 1
    return keyed


def side_by_side(report: Report) -> list[dict[str, Row]]:
    """Rows as table lines: for each (bits, stored bits, config, settings), the row of each basis.

    Returns:
        One dict {basis: row} a line, the most bits first, within them dense first, then configs in the run's order.
        A dense line holds a row for every basis; without any series row its single key is `dense`.
    """
    lines: dict[Key, dict[str, Row]] = {}
    for key, row in _keyed(report["rows"]):
        lines.setdefault(key, {})[row["basis"]] = row
    columns = bases(report) or [DENSE]
    for (_, _, config, *_), line in lines.items():
        if config == DENSE:
            first = next(iter(line.values()))
            line.update({basis: line.get(basis, first) for basis in columns})
    return [lines[key] for key in sorted(lines, key=lambda key: (-key[0], -key[1], key[2] != DENSE))]


def unique_rows(report: Report) -> list[Row]:
    """Every row in the run's order, dense rows once however many bases repeat them."""
    seen: set[Key] = set()
    kept = []
    for key, row in _keyed(report["rows"]):
        if is_dense(row) and key in seen:
            continue
        seen.add(key)
        kept.append(row)
    return kept


def measured(rows: Sequence[Row]) -> list[Row]:
    """The rows that have both a file size and a quantized Top-1."""
    return [row for row in rows if row.get("size_mb") is not None and row.get("top1_quant") is not None]


def frontier(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other row beats in both size and Top-1, smallest first.

    Args:
        rows: Rows with `size_mb` and `top1_quant`, as `measured` gives them.
    """
    ordered = sorted(rows, key=lambda row: (row["size_mb"], -row["top1_quant"]))
    best = accumulate((row["top1_quant"] for row in ordered), max, initial=float("-inf"))
    return [row for row, before in zip(ordered, best, strict=False) if row["top1_quant"] > before]


def loss(report: Report, row: Row) -> float | None:
    """Points of Top-1 lost against the baseline, free of the last binary digits; None where either is not measured."""
    before = baseline_top1(report, row)
    after = row.get("top1_quant")
    return None if before is None or after is None else round(before - after, 6)
