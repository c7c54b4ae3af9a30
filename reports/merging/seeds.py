"""Rows that were run with several seeds: their mean and spread."""

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from reports import text
from reports.rows import Report, Row, unique_rows
from reports.text import basis_name, config_name, settings_name, width_name

STAGES = ("pre", "post", "quant")

_Key = TypeVar("_Key", bound=Hashable)


def by_seed(rows: Iterable[tuple[_Key, int, Row]]) -> dict[_Key, dict[int, Row]]:
    """The rows of each key that was run with more than one seed.

    Args:
        rows: What a row shares with those of other seeds, its seed, and the row.
    """
    found: defaultdict[_Key, dict[int, Row]] = defaultdict(dict)
    for key, seed, row in rows:
        found[key][seed] = row
    return {key: seeds for key, seeds in found.items() if len(seeds) > 1}


def spread(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation: `90.20 ± 0.15`; a dash where one was not measured."""
    known = [value for value in values if value is not None]
    if len(known) < max(2, len(values)):
        return text.MISSING
    return f"{statistics.mean(known):.2f} ± {statistics.stdev(known):.2f}"


def spreads(rows: Sequence[Row]) -> list[str]:
    """`spread` of Top-1 before and after fine-tuning and after quantization."""
    return [spread([row.get(f"top1_{stage}") for row in rows]) for stage in STAGES]


def seed_table(report: Report, style: text.Style = "markdown") -> str:
    """One line for each row of a merged report that was run with several seeds; empty where none was."""
    seeds = {source["name"]: source["run"].get("seed") for source in report.get("sources") or []}
    rows = [(_key(row), seeds[run], row) for row in unique_rows(report) for run in row.get("runs") or ()]
    lines = [[*key, str(len(same)), *spreads(list(same.values()))] for key, same in by_seed(rows).items()]
    headers = ["Basis", "Config", "Bits", "Settings", "Seeds", "Pre Top1", "Post Top1", "Quant. Top1"]
    return text.draw(headers, [*_baseline(report), *lines], (0, 1, 3), style) if lines else ""


def _key(row: Row) -> tuple[str, ...]:
    others = {name: value for name, value in row["settings"].items() if name not in ("seed", "run")}
    dense = config_name(row["config"]) != row["config"]
    basis = text.MISSING if dense else basis_name(row["basis"])
    return basis, config_name(row["config"]), width_name(row), settings_name({"settings": others}) or text.MISSING


def _baseline(report: Report) -> list[list[str]]:
    """The line of the baselines, where every seed trained its own."""
    top1 = report["baseline"].get("top1_by_seed") or {}
    if not top1:
        return []
    dash = text.MISSING
    return [[dash, "baseline", "32", dash, str(len(top1)), dash, spread(list(top1.values())), dash]]
