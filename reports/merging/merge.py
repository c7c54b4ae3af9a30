"""One report from those of several runs of one network and one data set.

Rows are kept in the order of the runs. An artifact that several runs made alike is one row, which names all of them;
what tells the runs of the others apart, their settings, is each row's label.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.merging.baselines import baseline_difference, merged_baseline
from reports.merging.reading import SCHEMA_VERSION, Source
from reports.merging.rows import differing, is_ambiguous, merged_layers, merged_rows

LIMITS = ("max_drop", "max_size_mb")


class MergeError(ValueError):
    """Reports that do not belong into one."""


def merge(runs: Mapping[str, Source], command: str) -> dict[str, Any]:
    """Join reports.

    Args:
        runs: The runs under the names by which rows and layers refer to them.
        command: The command that merges them.

    Returns:
        The report, schema 1. Beyond that of one run it has `sources`, and its rows and layers `runs` and `settings`.
        Files are named as in the runs' own reports; `reports.merging.relocation` says where they are.

    Raises:
        MergeError: The runs are not of one network and one data set.
    """
    if difference := baseline_difference(runs):
        raise MergeError(f"report: {difference}; allowed: runs of one network and one data set, whose seeds may differ")
    settings = dict(zip(runs, differing([source.run for source in runs.values()]), strict=True))
    rows, layers = merged_rows(runs, settings), merged_layers(runs, settings)
    if is_ambiguous(rows, layers):
        settings = {name: {**own, "run": name} for name, own in settings.items()}
        rows, layers = merged_rows(runs, settings), merged_layers(runs, settings)
    gate = _gate(runs)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "done",
        "error": None,
        "exit_code": 3 if gate["passed"] is False else 0,
        "run": _run(runs, command),
        "baseline": merged_baseline(runs),
        "rows": rows,
        "layers": layers,
        "gate": gate,
        "kernels": next((source.kernels for source in runs.values() if source.kernels), None),
        "sources": [
            {"name": name, "settings": settings[name], "run": each.run, "baseline": each.baseline, "gate": each.gate}
            for name, each in runs.items()
        ],
    }


def _run(runs: Mapping[str, Source], command: str) -> dict[str, Any]:
    """What the runs have in common, and of all of them the seconds, the versions and the origins of the weights."""
    facts = [source.run for source in runs.values()]
    seconds = [each.get("duration_s") for each in facts]
    merged = {
        **{name: _common([each.get(name) for each in facts]) for name in facts[0]},
        "command": command,
        "weights": "; ".join(_distinct([each.get("weights") for each in facts])) or None,
        "versions": _versions([each.get("versions") or {} for each in facts]),
        "duration_s": None if None in seconds else round(sum(s for s in seconds if s is not None), 1),
    }
    if "stages" in merged:
        merged["stages"] = []  # a merge has none; those of the runs are in `sources`
    if "processes" in merged:
        merged["processes"] = max(each.get("processes", 1) for each in facts)
    return merged


def _common(values: Sequence[Any]) -> Any:
    """What is the same in all, in dictionaries entry by entry; None where nothing is."""
    first, *rest = values
    if all(value == first for value in rest):
        return first
    if all(isinstance(value, Mapping) for value in values):
        return {key: _common([value.get(key) for value in values]) for key in first}
    return None


def _versions(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Each library's version, or all of them where the runs had different ones."""
    names = dict.fromkeys(name for each in found for name in each)
    return {name: " / ".join(_distinct([each.get(name) for each in found])) for name in names}


def _distinct(texts: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _gate(runs: Mapping[str, Source]) -> dict[str, Any]:
    """The gate where every run had the same; runs that were held to others keep theirs in `sources`."""
    gates = [source.gate for source in runs.values()]
    limits = {name: gates[0].get(name) for name in LIMITS}
    if any(gate.get(name) != limit for gate in gates for name, limit in limits.items()):
        return {**dict.fromkeys(LIMITS), "passed": None, "failures": []}
    passed = [gate.get("passed") for gate in gates]
    failures = [f"{name}: {text}" for name, source in runs.items() for text in source.gate.get("failures") or []]
    return {**limits, "passed": False if False in passed else None if None in passed else True, "failures": failures}
