"""What tells the runs of a merged report apart: the settings in which they differ, as every row's label."""

from collections.abc import Mapping, Sequence
from typing import Any

Settings = dict[str, Any]

_OPTIONS = (
    "fit",
    "rounding",
    "backend",
    "calibration_size",
    "epochs",
    "distill",
    "qat_epochs",
    "batch_size",
    "lr",
)
_FACTS = ("seed", "device", "precision")


def differing(runs: Sequence[Mapping[str, Any]]) -> list[Settings]:
    """For each run its values of the settings that are not the same in all of them.

    Args:
        runs: What the reports say of their runs: `run` of report.json.
    """
    found = [_settings(run) for run in runs]
    names = [name for name in found[0] if len({each[name] for each in found}) > 1]
    return [{name: each[name] for name in names} for each in found]


def agreed(settings: Sequence[Settings]) -> Settings:
    """The settings whose values are the same in all."""
    first, *rest = settings
    return {name: value for name, value in first.items() if all(name in s and s[name] == value for s in rest)}


def _settings(run: Mapping[str, Any]) -> Settings:
    options = run.get("options") or {}
    return {name: run.get(name) for name in _FACTS} | {name: options.get(name) for name in _OPTIONS}
