"""Whether several runs started from the same network, and what stands for it in their merged report.

Where a baseline was trained with its run's own seed, runs of other seeds have other baselines of the same kind: their
rows belong together all the same, each beside the baseline of its seed.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from reports.merging.reading import Source

_DIGITS = 6


def baseline_difference(runs: Mapping[str, Source]) -> str | None:
    """In words, the first thing in which two runs differ that makes them runs of other networks or data.

    Args:
        runs: The runs by name.
    """
    (first_name, first), *others = runs.items()
    for name, other in others:
        for what, mine, its in _facts(first, other):
            if mine != its:
                return f"{name} and {first_name} differ in {what}: {_shown(its)} and {_shown(mine)}"
    return None


def own_baselines(runs: Mapping[str, Source]) -> bool:
    """Whether every seed trained a baseline of its own."""
    return len({source.run.get("weights") for source in runs.values()}) > 1


def merged_baseline(runs: Mapping[str, Source]) -> dict[str, Any]:
    """The baseline that the runs share, or the mean of those that their seeds trained.

    Args:
        runs: The runs by name, between which `baseline_difference` finds nothing.
    """
    baseline = dict(next(iter(runs.values())).baseline)
    if not own_baselines(runs):
        return baseline
    by_seed = {str(source.seed): source.baseline for source in runs.values()}
    means = {name: _mean([each.get(name) for each in by_seed.values()]) for name in ("top1", "size_mb")}
    return {
        **baseline,
        **means,
        "artifact": None,
        **({"sha256": None} if "sha256" in baseline else {}),
        "top1_by_seed": {seed: each.get("top1") for seed, each in by_seed.items()},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is not known."""
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), _DIGITS) if len(known) == len(values) else None


def _facts(first: Source, other: Source) -> list[tuple[str, Any, Any]]:
    """What must be the same in two runs, in words, with the value of each."""
    data, before = other.run.get("dataset") or {}, first.run.get("dataset") or {}
    facts: list[tuple[str, Any, Any]] = [("the model", first.run.get("model"), other.run.get("model"))]
    facts += [(f"the data ({key})", before[key], data[key]) for key in before if key in data]
    facts.append(("the weights", _origin(first), _origin(other)))
    keys = ["params"]
    if first.run.get("weights") == other.run.get("weights"):
        digests = first.baseline.get("sha256"), other.baseline.get("sha256")
        keys.append("top1" if None in digests else "sha256")
    return facts + [(f"the baseline's {key}", first.baseline.get(key), other.baseline.get(key)) for key in keys]


def _origin(source: Source) -> str | None:
    """Where the weights are from; the run's own seed, with which they may have been trained, does not matter."""
    weights = source.run.get("weights")
    return weights and re.sub(rf"\bseed {source.seed}\b", "the run's seed", weights)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
