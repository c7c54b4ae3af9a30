"""Reading the reports that are merged: a run's report.json, or that of an earlier merge, run by run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.rows import Report, Row

SCHEMA_VERSION = 1
FILE = "report.json"


class ReportError(ValueError):
    """A report that is missing, damaged, or of a run that did not end well."""


@dataclass(frozen=True)
class Source:
    """One run of a report.

    Attributes:
        path: The run's folder.
        folder: The folder that the rows' file names are relative to.
        run: What the report says of the run.
        baseline: Its uncompressed network.
        gate: Its limits, and whether they were kept.
        rows: Its rows.
        layers: Its layers.
        kernels: One filter and its fits, or None.
    """

    path: Path
    folder: Path
    run: Mapping[str, Any]
    baseline: Mapping[str, Any]
    gate: Mapping[str, Any]
    rows: Sequence[Row]
    layers: Sequence[Row]
    kernels: Mapping[str, Any] | None

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.run.get("seed")


def read_report(place: Path) -> dict[str, Any]:
    """Read a report.

    Args:
        place: The output folder of a run, or the report.json in it.

    Raises:
        ReportError: It is missing or damaged, or its run failed.
    """
    file = report_file(place)
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"report: {place} has no {FILE}; allowed: the output folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"report: {file} cannot be read: {error}; allowed: the {FILE} of a finished run") from None
    _check(report, file)
    return dict(report)


def report_file(place: Path) -> Path:
    """The report.json of an output folder; a path that ends in that name is the file itself."""
    return place if place.name == FILE else place / FILE


def sources(report: Report, place: Path) -> list[Source]:
    """The runs that a report is about: one, or for a merged report those that were merged.

    Args:
        report: What was read.
        place: Where it was read.
    """
    folder = report_file(place).parent
    if "sources" not in report:
        facts = {key: report[key] for key in ("run", "baseline", "gate", "rows", "layers")}
        return [Source(folder, folder, **facts, kernels=report.get("kernels"))]
    return [_part(report, folder, each) for each in report["sources"]]


def _part(report: Report, folder: Path, source: Mapping[str, Any]) -> Source:
    """One run of a merged report, without what the merge added."""
    rows, layers = ([_unmarked(each) for each in report[key] if source["name"] in each["runs"]] for key in _LISTS)
    facts = {key: source[key] for key in ("run", "baseline", "gate")}
    return Source(folder / source["name"], folder, **facts, rows=rows, layers=layers, kernels=report.get("kernels"))


_LISTS = ("rows", "layers")
MARKS = ("runs", "settings", "baseline_top1")
"""What a merge adds to a row or layer."""


_SHAPE: dict[str, type] = {"run": dict, "baseline": dict, "rows": list, "layers": list, "gate": dict}
_NAMED = {"rows": ("basis", "config", "bits"), "layers": ("basis", "config", "name")}


def _unmarked(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in MARKS}


def _check(report: Any, file: Path) -> None:
    if not isinstance(report, dict) or "schema_version" not in report:
        raise ReportError(f"report: {file} is no report; allowed: the {FILE} of a finished run")
    if report["schema_version"] != SCHEMA_VERSION:
        version = report["schema_version"]
        raise ReportError(f"report: {file} has schema_version {version}; allowed: {SCHEMA_VERSION}")
    status = report.get("status", "done")
    if status != "done":
        reason = f" ({report['error']['message']})" if report.get("error") else ""
        raise ReportError(f"report: the run of {file} is {status}{reason}; allowed: runs that are done")
    if wrong := [
        key for key, kind in _SHAPE.items() if not isinstance(report.get(key), kind) or not _named(report, key)
    ]:
        raise ReportError(f"report: {file} has no {wrong[0]} as a report has; allowed: the {FILE} of a finished run")


def _named(report: Report, key: str) -> bool:
    """Whether every row or layer says which it is."""
    needed = _NAMED.get(key, ())
    return not needed or all(isinstance(row, dict) and all(name in row for name in needed) for row in report[key])
