"""What a run tells its trackers, as names and values that every one of them takes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.training.state import EpochFigures, TrainingLabel

Metrics = dict[str, float]
_NOT_IN_NAMES = re.compile(r"[^\w./-]+", re.ASCII)  # what is left is allowed in MLflow's names and in TensorBoard's
_FILES = ("report.md", "report.json", "options.yaml")
# They say which row it is, and are in its name.
_IDENTITY = ("bits", "stored_bits", "onnx_bits")


def parameters(options: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """A run's options as a tracker's parameters: lists joined into text, and without those that are not set.

    Example:
        >>> parameters({"config": ["3,3,2,2", "dense"], "bits": [8, 4], "lr": None, "seed": 0})
        {'config': '3,3,2,2 dense', 'bits': '8,4', 'seed': 0}
    """
    return {name: _plain(value) for name, value in options.items() if value not in (None, [], ())}


def curve_point(label: "TrainingLabel", figures: "EpochFigures") -> Metrics:
    """Name an epoch's figures after their training.

    Args:
        label: The training.
        figures: The epoch.

    Example:
        >>> curve_point(TrainingLabel("cosine 3,3,2,2", "qat", 4), EpochFigures(epoch=1, loss=0.5, lr=0.02))
        {'cosine-3.3.2.2-4/qat/loss': 0.5, 'cosine-3.3.2.2-4/qat/lr': 0.02}
    """
    network = label.network if label.bits is None else f"{label.network}-{label.bits}"  # as in a row's name
    name = f"{_name(network)}/{_name(label.stage)}"
    return {f"{name}/loss": figures.loss, f"{name}/lr": figures.lr}


def final_metrics(report: Mapping[str, Any]) -> Iterator[Metrics]:
    """The figures of a report, in portions: the baseline and the run as a whole, then each row.

    Args:
        report: The content of report.json. What was not measured (null) is left out.
    """
    whole = {f"baseline/{name}": value for name, value in _numbers(report["baseline"])}
    whole |= {f"run/{name}": value for name, value in _numbers(report["run"]) if name != "seed"}
    passed = report["gate"]["passed"]
    yield whole if passed is None else whole | {"gate/passed": float(passed)}
    for row in report["rows"]:
        name = _name(f"{row['basis']}-{row['config']}-{row['bits']}")
        yield {f"{name}/{field}": value for field, value in _numbers(row) if field not in _IDENTITY}


def report_files(report: Mapping[str, Any], folder: Path) -> list[tuple[Path, str]]:
    """The files that a report speaks of, smallest first, each with the folder it has in the output folder.

    Args:
        report: The content of report.json; files of earlier runs in the same folder are not in it.
        folder: The output folder.
    """
    named = [place[field] for place in (report["baseline"], *report["rows"]) for field in ("artifact", "onnx")
             if place.get(field)]  # fmt: skip
    plots = [str(path.relative_to(folder)) for path in sorted((folder / "plots").glob("*.png"))]
    paths = [folder / name for name in dict.fromkeys([*_FILES, *plots, *named])]
    there = sorted((path for path in paths if path.is_file()), key=lambda path: path.stat().st_size)
    return [(path, "" if path.parent == folder else path.parent.relative_to(folder).as_posix()) for path in there]


def _plain(value: object) -> str | int | float | bool:
    if isinstance(value, list | tuple):
        words = [str(item) for item in value]
        return (" " if any("," in word for word in words) else ",").join(words)
    return value if isinstance(value, str | int | float) else str(value)


def _numbers(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _name(text: str) -> str:
    """Text as a part of a metric's name: ``cosine 3,3,2,2`` -> ``cosine-3.3.2.2``."""
    return _NOT_IN_NAMES.sub("-", text.replace(",", ".").replace("/", "-")).strip("-")
