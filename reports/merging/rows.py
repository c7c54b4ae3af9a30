"""The rows and layers of several runs as one list, each with the runs that it is of and what tells these apart."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.merging.reading import Source
from reports.rows import Row
from reports.text import settings_name, stored_bits

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

AllSettings = Mapping[str, Settings]


def merged_rows(runs: Mapping[str, Source], settings: AllSettings) -> list[dict[str, Any]]:
    """Every row of every run, those that are the same artifact once.

    Args:
        runs: The runs by name.
        settings: Name -> what tells the run from the others.
    """
    found: dict[Hashable, list[str]] = {}
    rows: dict[Hashable, dict[str, Any]] = {}
    for name, source in runs.items():
        for number, row in enumerate(source.rows):
            same = (row["basis"], row["config"], row["bits"], row.get("sha256") or (name, number))
            found.setdefault(same, []).append(name)
            rows.setdefault(same, {**row, **_baseline_top1(runs, source)})
    return [_marked(row, found[same], settings) for same, row in rows.items()]


def merged_layers(runs: Mapping[str, Source], settings: AllSettings) -> list[dict[str, Any]]:
    """The layers of every config and basis of every run.

    Those of runs with the same settings are joined, so that a layer has its error at every width; those of runs with
    other settings are one only where they are the same in everything.

    Args:
        runs: The runs by name.
        settings: Name -> what tells the run from the others.
    """
    blocks: list[_Block] = []
    for name, source in runs.items():
        for layers in _by_network(source.layers).values():
            if not any(block.takes(layers, name, settings) for block in blocks):
                blocks.append(_Block([name], [dict(layer) for layer in layers]))
    return [_marked(layer, block.names, settings) for block in blocks for layer in block.layers]


def is_ambiguous(rows: Sequence[Row], layers: Sequence[Row]) -> bool:
    """Whether two rows or layers that are not the same have the same name and label."""
    named: Counter[Hashable] = Counter(
        (r["basis"], r["config"], r["bits"], stored_bits(r), settings_name(r)) for r in rows
    )
    named.update((r["basis"], r["config"], r["name"], settings_name(r)) for r in layers)
    return max(named.values(), default=0) > 1


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


@dataclass
class _Block:
    """The layers of one config and basis, and the runs that they are of."""

    names: list[str]
    layers: list[dict[str, Any]]

    def takes(self, layers: Sequence[Row], name: str, settings: AllSettings) -> bool:
        """Join the layers of another run where they fit; whether they did."""
        alike = settings[name] == agreed([settings[own] for own in self.names])
        same = [dict(layer) for layer in layers] == self.layers
        if not same and not (alike and self._fits(layers)):
            return False
        self.names.append(name)
        self.layers = [_joined(mine, other) for mine, other in zip(self.layers, layers, strict=True)]
        return True

    def _fits(self, layers: Sequence[Row]) -> bool:
        """Whether the layers are the same but for errors of widths that only one of both has."""
        if len(layers) != len(self.layers):
            return False
        return all(_joined(a, b) == _joined(b, a) for a, b in zip(self.layers, layers, strict=True))


def _joined(layer: Row, other: Row) -> dict[str, Any]:
    """The layer with the other's errors of rounding beside its own; its own figures win."""
    errors = [each.get("rounding_error") for each in (other, layer)]
    known = [each for each in errors if each is not None]
    joined = {width: value for each in known for width, value in each.items()} if known else None
    return {**layer, "rounding_error": joined}


def _by_network(layers: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for layer in layers:
        found.setdefault((layer["basis"], layer["config"]), []).append(layer)
    return found


def _marked(row: dict[str, Any], names: Sequence[str], settings: AllSettings) -> dict[str, Any]:
    return {**row, "runs": list(names), "settings": agreed([settings[name] for name in names])}


def _baseline_top1(runs: Mapping[str, Source], source: Source) -> dict[str, Any]:
    """The row's own baseline, where not all runs have the same Top-1 there."""
    tops = {each.baseline.get("top1") for each in runs.values()}
    return {"baseline_top1": source.baseline.get("top1")} if len(tops) > 1 else {}


def _settings(run: Mapping[str, Any]) -> Settings:
    options = run.get("options") or {}
    return {name: run.get(name) for name in _FACTS} | {name: options.get(name) for name in _OPTIONS}
