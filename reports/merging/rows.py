"""Rows and layers of several runs in one list, each with its runs and the settings that distinguish them."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from reports.fields import Settings
from reports.merging.reading import Source
from reports.model import Layer, Row
from reports.run import Run
from reports.text import bits_name, settings_name, target_name

AllSettings = Mapping[str, Settings]
"""Name of a run -> the settings that distinguish it from the other runs."""

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


def differing(runs: Sequence[Run]) -> list[Settings]:
    """Return for each run its values of the settings that are not equal in all runs."""
    found = [_settings(run) for run in runs]
    names = [name for name in found[0] if len({each[name] for each in found}) > 1]
    return [{name: each[name] for name in names} for each in found]


def agreed(settings: Sequence[Settings]) -> Settings:
    """Return the settings whose values are equal in all."""
    first, *rest = settings
    return {name: value for name, value in first.items() if all(name in s and s[name] == value for s in rest)}


def merged_rows(runs: Mapping[str, Source], settings: AllSettings) -> list[Row]:
    """Return every row of every run; rows of the same artifact are returned once, a dense one for each basis.

    Of the rows of an artifact, the first with an ONNX file is returned: a run may have written none.

    Args:
        runs: The runs by name.
        settings: The settings of each run.
    """
    differ = len({source.baseline.top1 for source in runs.values()}) > 1
    found: dict[tuple[str, Hashable], list[str]] = {}
    holders: dict[Hashable, list[str]] = {}  # the runs of a dense file, whatever its row's basis
    rows: dict[tuple[str, Hashable], Row] = {}
    for name, source in runs.items():
        for number, row in enumerate(source.rows):
            content = (None if row.is_dense else row.basis, row.config, bits_name(row), row.sha256 or (name, number))
            artifact = (row.basis, content)
            own = {"baseline_top1": source.baseline.top1} if differ else {}
            better = artifact not in rows or bool(row.onnx and not rows[artifact].onnx)
            if better:
                rows[artifact] = row.model_copy(update=own)
            names = found.setdefault(artifact, [])
            names.insert(0 if better else len(names), name)  # a row's files are those of its first run
            holders.setdefault(content, []).append(name)
    return [
        row.model_copy(update={"runs": found[basis, content], "settings": _agreed(holders[content], settings)})
        for (basis, content), row in rows.items()
    ]


def merged_layers(runs: Mapping[str, Source], settings: AllSettings) -> list[Layer]:
    """Return the layers of every config and basis of every run.

    Layers of runs with equal settings are joined, so that a layer has its error at every width. Layers of runs with
    different settings are joined only if they are equal in every field.

    Args:
        runs: The runs by name.
        settings: The settings of each run.
    """
    blocks: list[_Block] = []
    for name, source in runs.items():
        for layers in _by_network(source.layers).values():
            if not any(block.join(layers, name, settings) for block in blocks):
                blocks.append(_Block([name], layers))
    return [
        layer.model_copy(update={"runs": list(block.names), "settings": _agreed(block.names, settings)})
        for block in blocks
        for layer in block.layers
    ]


def is_ambiguous(rows: Sequence[Row], layers: Sequence[Layer]) -> bool:
    """Return True if two different rows or layers have the same name and settings."""
    named: Counter[Hashable] = Counter(
        (row.basis, row.config, bits_name(row), settings_name(row.settings)) for row in rows
    )
    named.update(
        (layer.basis, layer.config, target_name(layer), layer.name, settings_name(layer.settings)) for layer in layers
    )
    return max(named.values(), default=0) > 1


@dataclass
class _Block:
    """Layers of one config, basis and target, and the names of their runs."""

    names: list[str]
    layers: list[Layer]

    def join(self, layers: list[Layer], name: str, settings: AllSettings) -> bool:
        """Join the layers of another run if they fit; return True if they were joined."""
        alike = settings[name] == _agreed(self.names, settings)
        if layers != self.layers and not (alike and self._fits(layers)):
            return False
        self.names.append(name)
        self.layers = [mine.with_widths_of(other) for mine, other in zip(self.layers, layers, strict=True)]
        return True

    def _fits(self, layers: Sequence[Layer]) -> bool:
        """Return True if the layers differ only in rounding errors of widths that one of both lacks."""
        if len(layers) != len(self.layers):
            return False
        return all(a.with_widths_of(b) == b.with_widths_of(a) for a, b in zip(self.layers, layers, strict=True))


def _by_network(layers: Sequence[Layer]) -> dict[tuple[str, str, str], list[Layer]]:
    found: dict[tuple[str, str, str], list[Layer]] = {}
    for layer in layers:
        found.setdefault((layer.basis, layer.config, target_name(layer)), []).append(layer)
    return found


def _agreed(names: Sequence[str], settings: AllSettings) -> Settings:
    return agreed([settings[name] for name in names])


def _settings(run: Run) -> Settings:
    options = run.options or {}
    chosen = {name: value for name in _OPTIONS if not isinstance(value := options.get(name), list)}
    return {"seed": run.seed, "device": run.device, "precision": run.precision, **chosen}
