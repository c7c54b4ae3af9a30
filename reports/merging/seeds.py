"""Rows that were run with several seeds: their mean and standard deviation."""

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from reports import text
from reports.model import Report, Row
from reports.rows import baseline, unique_rows
from reports.text import MISSING, basis_name, config_name, settings_name, width_name

_Key = TypeVar("_Key", bound=Hashable)
_Item = TypeVar("_Item")


def by_seed(rows: Iterable[tuple[_Key, int | None, _Item]]) -> dict[_Key, dict[int | None, _Item]]:
    """Return the rows of each key that was run with more than one seed.

    Args:
        rows: For each row the fields that it shares with rows of other seeds, its seed, and the row.
    """
    found: defaultdict[_Key, dict[int | None, _Item]] = defaultdict(dict)
    for key, seed, row in rows:
        found[key][seed] = row
    return {key: seeds for key, seeds in found.items() if len(seeds) > 1}


def spread(values: Sequence[float | None]) -> str:
    """Format mean and sample standard deviation: ``90.20 ± 0.15``; a dash if a value was not measured."""
    known = [value for value in values if value is not None]
    if len(known) < max(2, len(values)):
        return MISSING
    return f"{statistics.mean(known):.2f} ± {statistics.stdev(known):.2f}"


def spreads(rows: Sequence[Row]) -> list[str]:
    """Format the spread of Top-1 after the fit, after fine-tuning and after quantization."""
    return [
        spread([row.top1_pre for row in rows]),
        spread([row.top1_post for row in rows]),
        spread([row.top1_quant for row in rows]),
    ]


def seed_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw one line for each row of a merged report that was run with several seeds; empty if there is none."""
    seeds = {source.name: source.run.seed for source in report.sources or []}
    rows = [(_key(row), seeds[run], row) for row in unique_rows(report) for run in row.runs or []]
    lines = [[*key, str(len(same)), *spreads(list(same.values()))] for key, same in by_seed(rows).items()]
    width, tops = text.width_heading(report.rows), ("Pre Top1", "Post Top1", "Quant. Top1")
    headers = ["Basis", "Config", width, "Settings", "Seeds", *tops]
    return text.draw(headers, [*_baseline_line(report), *lines], (0, 1, 3), style) if lines else ""


def _key(row: Row) -> tuple[str, ...]:
    others = {name: value for name, value in (row.settings or {}).items() if name not in ("seed", "run")}
    basis = MISSING if row.is_dense else basis_name(row.basis)
    return basis, config_name(row.config), width_name(row), settings_name(others) or MISSING


def _baseline_line(report: Report) -> list[list[str]]:
    top1 = baseline(report).top1_by_seed
    if not top1:
        return []
    return [[MISSING, "baseline", "32", MISSING, str(len(top1)), MISSING, spread(list(top1.values())), MISSING]]
