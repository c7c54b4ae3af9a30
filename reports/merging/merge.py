"""Merge the reports of several runs of one network and one data set.

Rows keep the order of the runs. An artifact that several runs made is one row with the names of all of them. Each row
is labelled with the settings in which its runs differ from the other runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.gate import judge
from reports.merging.baselines import baseline_difference, merged_baseline
from reports.merging.kernels import merged_kernels
from reports.merging.reading import Source
from reports.merging.rows import differing, is_ambiguous, merged_layers, merged_rows
from reports.model import SCHEMA_VERSION, Gate, Report
from reports.model import Source as ReportSource
from reports.run import Dataset, Run


class MergeError(ValueError):
    """Reports of runs that cannot be merged."""


def merge(runs: Mapping[str, Source], command: str) -> Report:
    """Merge reports.

    Args:
        runs: The runs by name; rows and layers refer to them by these names.
        command: The command that merges them.

    Returns:
        The merged report. In addition to the report of one run, it has ``sources``, and its rows and layers have
        ``runs`` and ``settings``. Files have the names in the runs' own reports; ``reports.merging.relocation``
        rewrites them.

    Raises:
        MergeError: The runs are not of one network and one data set.
    """
    if difference := baseline_difference(runs):
        raise MergeError(f"{difference}; allowed: runs of one network and one data set, whose seeds may differ")
    settings = dict(zip(runs, differing([source.run for source in runs.values()]), strict=True))
    rows, layers = merged_rows(runs, settings), merged_layers(runs, settings)
    if is_ambiguous(rows, layers):
        settings = {name: {**own, "run": name} for name, own in settings.items()}
        rows, layers = merged_rows(runs, settings), merged_layers(runs, settings)
    gate = _gate(runs)
    return Report(
        schema_version=SCHEMA_VERSION,
        exit_code=gate.exit_code,
        run=_run(runs, command),
        baseline=merged_baseline(runs),
        rows=rows,
        layers=layers,
        gate=gate,
        kernels=merged_kernels(source.kernels for source in runs.values()),
        sources=[
            ReportSource(name=name, settings=settings[name], run=each.run, baseline=each.baseline, gate=each.gate)
            for name, each in runs.items()
        ],
    )


def _run(runs: Mapping[str, Source], command: str) -> Run:
    """Return the fields that the runs share, their total duration, and all of their versions and weights' origins."""
    own = [source.run for source in runs.values()]
    seconds = [run.duration_s for run in own if run.duration_s is not None]
    return Run.model_validate(
        {
            **_common([run.model_dump() for run in own]),
            "command": command,
            "model": own[0].model,
            "dataset": _dataset([run.dataset for run in own]),
            "weights": "; ".join(_distinct([run.weights for run in own])) or None,
            "versions": _versions([run.versions for run in own]),
            "duration_s": round(sum(seconds), 1) if len(seconds) == len(own) else None,
            "stages": [],  # the stages of each run are in `sources`
            "processes": max(run.processes for run in own),
        }
    )


def _dataset(found: Sequence[Dataset | None]) -> dict[str, Any] | None:
    """Return what all runs have in common of their data, which may have other names in other runs."""
    if any(each is None for each in found):
        return None
    common: dict[str, Any] = _common([each.model_dump() for each in found if each is not None])
    return common | {"name": next(each.name for each in found if each is not None)}


def _common(values: Sequence[Any]) -> Any:
    """Return the value that all share, entry by entry in dictionaries; None if they differ."""
    first, *rest = values
    if all(isinstance(value, Mapping) for value in values):
        return {key: _common([value.get(key) for value in values]) for key in first}
    return first if all(value == first for value in rest) else None


def _versions(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return each library's version; different versions are joined with slashes."""
    names = dict.fromkeys(name for each in found for name in each)
    return {name: " / ".join(_distinct([each.get(name) for each in found])) for name in names}


def _distinct(texts: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _gate(runs: Mapping[str, Source]) -> Gate:
    """Return the gate that all runs share; if their limits differ, a gate without limits.

    Without limits, only rows that miss their target fail, and rows whose reloaded network differs. A run with neither
    limits nor targets has nothing to pass. The own gate of each run stays in ``sources``.
    """
    gates = {name: source.gate for name, source in runs.items()}
    limits = {(gate.max_drop, gate.max_size_mb) for gate in gates.values()}
    if len(limits) > 1:
        limits = {(None, None)}
        gates = {name: judge(source.rows, source.baseline.top1) for name, source in runs.items()}
    ((max_drop, max_size_mb),) = limits
    verdicts = [gate.passed for gate in gates.values()]
    return Gate(
        max_drop=max_drop,
        max_size_mb=max_size_mb,
        targets=sum(gate.targets for gate in gates.values()),
        passed=False if False in verdicts else True if True in verdicts else None,
        failures=[f"{name}: {failure}" for name, gate in gates.items() for failure in gate.failures],
    )
