"""Convert options and results of a run to parameters, metrics and files under names that every tracker accepts."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.options.grid import Target
from pipeline.options.naming import shortened

if TYPE_CHECKING:
    from pipeline.training.state import EpochFigures, TrainingLabel

Metrics = dict[str, float]
_NOT_IN_NAMES = re.compile(r"[^\w./-]+", re.ASCII)  # all other characters are valid in MLflow and TensorBoard
_FILES = ("report.md", "report.html", "report.json", "options.yaml")
_IDENTITY = (
    "bits",
    "stored_bits",
    "onnx_bits",
    "target_mb",
    "target_drop",
)  # no metrics: they identify a row, whose name contains them


def parameters(options: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Convert a run's options to a tracker's parameters: join lists into text, and drop options that are not set.

    Example:
        >>> parameters({"config": ["3,3,2,2", "dense"], "bits": [8, 4], "lr": None, "seed": 0})
        {'config': '3,3,2,2 dense', 'bits': '8,4', 'seed': 0}
    """
    return {name: _plain(value) for name, value in options.items() if value not in (None, [], ())}


def curve_point(label: "TrainingLabel", figures: "EpochFigures") -> Metrics:
    """Return an epoch's metrics ``NETWORK[-BITS]/STAGE/loss``, ``.../lr`` and, if measured, ``.../held_out_loss``.

    Args:
        label: The training.
        figures: The epoch.

    Example:
        >>> curve_point(TrainingLabel("cosine 3,3,2,2", "qat", 4), EpochFigures(epoch=1, loss=0.5, lr=0.02))
        {'cosine-3.3.2.2-4/qat/loss': 0.5, 'cosine-3.3.2.2-4/qat/lr': 0.02}
    """
    network = label.network if label.bits is None else f"{label.network}-{label.bits}"  # as in the name of a row
    name = f"{_name(network)}/{_name(label.stage)}"
    point = {f"{name}/loss": figures.loss, f"{name}/lr": figures.lr}
    return point if figures.held_out is None else point | {f"{name}/held_out_loss": figures.held_out}


def final_metrics(report: Mapping[str, Any]) -> Iterator[Metrics]:
    """Yield the metrics of a report: first of the baseline and the whole run, then of each row.

    Args:
        report: The content of report.json; null values are left out.
    """
    whole = {f"baseline/{name}": value for name, value in _numbers(report["baseline"])}
    whole |= {f"run/{name}": value for name, value in _numbers(report["run"]) if name != "seed"}
    passed = report["gate"]["passed"]
    yield whole if passed is None else whole | {"gate/passed": float(passed)}
    for row in report["rows"]:
        name = _name(f"{row['basis']}-{row['config']}-{_width(row)}")
        yield {f"{name}/{field}": value for field, value in _numbers(row) if field not in _IDENTITY}


def _width(row: Mapping[str, Any]) -> int | str:
    if row["bits"] is not None:
        return int(row["bits"])
    return Target(row["target_mb"], row["target_drop"]).label


def report_files(report: Mapping[str, Any], folder: Path) -> list[tuple[Path, str]]:
    """Return the files of a run, smallest first, and for each its folder relative to the output folder.

    Args:
        report: The content of report.json. Artifacts of earlier runs in the same folder are not in it.
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
    """Convert text to a part of a metric's name, shortened: ``cosine 3,3,2,2`` -> ``cosine-3.3.2.2``.

    A comma before a space separates a target: ``cosine auto, 0.04mb`` -> ``cosine-auto-0.04mb``, the name of its row.
    """
    joined = text.replace(", ", "-").replace(",", ".").replace("/", "-")
    return shortened(_NOT_IN_NAMES.sub("-", joined).strip("-"))
