"""Baselines of merged runs: check that they are comparable, and merge them.

If a baseline was trained with its run's seed, runs of other seeds have other baselines of the same kind. Their rows are
merged all the same, and each row is compared with the baseline of its seed.
"""

import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from reports.merging.reading import Source
from reports.model import Baseline

_DIGITS = 6


def baseline_difference(runs: Mapping[str, Source]) -> str | None:
    """Describe the first difference of network or data between two runs; None if there is none.

    Args:
        runs: The runs by name.
    """
    # Every pair: two runs may both agree with a third one that has another seed, or an earlier report without a fact.
    for (first_name, first), (name, other) in itertools.combinations(runs.items(), 2):
        for what, mine, its in _facts(first, other):
            if mine != its:
                return f"{name} and {first_name} differ in {what}: {_shown(its)} and {_shown(mine)}"
    return None


def own_baselines(runs: Mapping[str, Source]) -> bool:
    """Return True if every seed trained a baseline of its own."""
    first, *others = runs.values()
    return any(other.run.weights != first.run.weights and not _same_network(first, other) for other in others)


def merged_baseline(runs: Mapping[str, Source]) -> Baseline:
    """Return the baseline that the runs share, or the mean of the baselines that their seeds trained.

    Args:
        runs: The runs by name, for which ``baseline_difference`` returns None.
    """
    baseline = next(iter(runs.values())).baseline
    if not own_baselines(runs):
        return baseline
    by_seed = {str(source.run.seed): source.baseline for source in runs.values()}
    return Baseline(
        top1=_mean([each.top1 for each in by_seed.values()]),
        params=baseline.params,
        size_mb=_mean([each.size_mb for each in by_seed.values()]),
        artifact=None,
        warnings=[f"seed {seed}: {warning}" for seed, each in by_seed.items() for warning in each.warnings],
        top1_by_seed={seed: each.top1 for seed, each in by_seed.items()},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value was not measured."""
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), _DIGITS) if len(known) == len(values) else None


def _facts(first: Source, other: Source) -> list[tuple[str, Any, Any]]:
    """Return the name and both values of each fact that must be equal in two runs."""
    data, before = (source.run.dataset.model_dump() if source.run.dataset else {} for source in (other, first))
    same = _same_network(first, other)
    facts: list[tuple[str, Any, Any]] = [] if same else [("the model", first.run.model, other.run.model)]
    # Reports of earlier versions do not have every fact, and notes are no facts.
    names = {"notes", "digest"} | ({"name"} if _equal(before.get("digest"), data.get("digest")) else set())
    known = [key for key in before if key not in names and None not in (before[key], data.get(key))]
    facts += [(f"the data ({key})", before[key], data[key]) for key in known]
    if not same:
        facts.append(("the weights", _origin(first), _origin(other)))
    facts.append(("the baseline's params", first.baseline.params, other.baseline.params))
    if same or first.run.weights == other.run.weights:
        facts.append(("the baseline's top1", first.baseline.top1, other.baseline.top1))
    return facts


def _same_network(first: Source, other: Source) -> bool:
    """Return True if the uncompressed networks are known to be equal, whatever their names and files."""
    return _equal(first.baseline.digest, other.baseline.digest)


def _equal(digest: str | None, other: str | None) -> bool:
    return digest is not None and digest == other


def _origin(source: Source) -> str | None:
    """Return the origin of the weights, without the run's own seed, which may have trained them."""
    weights = source.run.weights
    return weights and re.sub(rf"\bseed {source.run.seed}\b", "the run's seed", weights)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
