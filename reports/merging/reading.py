"""Reading of reports to be merged: the report.json of a run or of an earlier merge, as one source per run."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reports.model import SCHEMA_VERSION, Baseline, Gate, Kernels, Layer, Report, Row
from reports.rows import baseline
from reports.run import Run

FILE = "report.json"


class ReportError(ValueError):
    """A report is missing or damaged, or its run failed."""


@dataclass(frozen=True)
class Source:
    """One run of a report.

    Attributes:
        path: Folder of the run.
        folder: Folder that the rows' file names are relative to.
        run: How the run was made.
        baseline: Uncompressed network of the run.
        gate: Limits of the run.
        rows: Rows of the run.
        layers: Layers of the run.
        kernels: One filter and its fits, or None.
    """

    path: Path
    folder: Path
    run: Run
    baseline: Baseline
    gate: Gate
    rows: list[Row]
    layers: list[Layer]
    kernels: Kernels | None


def read_report(place: Path) -> Report:
    """Read the report of a finished run.

    Args:
        place: The output folder of a run, or the report.json in it.

    Raises:
        ReportError: The report is missing or damaged, or its run failed.
    """
    file = report_file(place)
    with suppress(OSError):  # the file in it cannot be read either, and its error is named
        if place.is_file() and place.name != FILE:
            raise ReportError(f"{place} is a file; allowed: the output folder of a finished run, or its {FILE}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{place} has no {FILE}; allowed: the output folder of a finished run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{file} cannot be read: {error}; allowed: the {FILE} of a finished run") from None
    _check(content, file)
    try:
        return Report.model_validate(_completed(content))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ReportError(
            f"{file} has a wrong field {field}: {first['msg']}; allowed: the {FILE} of a finished run"
        ) from None


def report_file(place: Path) -> Path:
    """Return the report.json of an output folder; a path that ends in that name is returned unchanged."""
    return place if place.name == FILE else place / FILE


def sources(report: Report, place: Path) -> list[Source]:
    """Return the runs of a report: one, or the merged runs of a merged report.

    Args:
        report: The report.
        place: Where it was read.
    """
    folder = report_file(place).parent
    if report.sources is None:
        own = (report.run, baseline(report), report.gate, report.rows, report.layers, report.kernels)
        return [Source(folder, folder, *own)]
    return [
        Source(
            path=folder / each.name,
            folder=folder,
            run=each.run,
            baseline=each.baseline,
            gate=each.gate,
            rows=[
                row.model_copy(update=dict.fromkeys(Row.MERGED_ONLY))
                for row in report.rows
                if each.name in (row.runs or [])
            ],
            layers=[
                layer.model_copy(update=dict.fromkeys(Layer.MERGED_ONLY))
                for layer in report.layers
                if each.name in (layer.runs or [])
            ],
            kernels=report.kernels,
        )
        for each in report.sources
    ]


def runs_of(read: Sequence[tuple[Path, Report]]) -> list[Source]:
    """Return the runs of several reports in their order, each once.

    What a merged report has of a run may be older than the run's own report, which therefore counts if it is there.

    Args:
        read: The reports, and where each was read.
    """
    found = [(report, run) for place, report in read for run in sources(report, place)]
    runs = {run.path.resolve(): run for _, run in found}
    runs |= {run.path.resolve(): run for report, run in found if report.sources is None}
    return list(runs.values())


def _check(content: Any, file: Path) -> None:
    """Refuse JSON that is not the report of a finished run."""
    if not isinstance(content, dict) or "schema_version" not in content:
        raise ReportError(f"{file} is no report; allowed: the {FILE} of a finished run")
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        raise ReportError(f"{file} has schema_version {version}; allowed: {SCHEMA_VERSION}")
    status = content.get("status", "done")
    if status != "done":
        reason = f" ({content['error']['message']})" if content.get("error") else ""
        raise ReportError(f"the run of {file} is {status}{reason}; allowed: runs that are done")
    if content.get("baseline") is None:
        raise ReportError(f"{file} has no baseline; allowed: the {FILE} of a finished run")


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """Add the stored bits to integer rows of an early version, which stored ``bits`` bits."""
    rows = content.get("rows")
    if not isinstance(rows, list):
        return content
    return content | {
        "rows": [{"stored_bits": row.get("bits"), **row} if isinstance(row, dict) else row for row in rows]
    }
