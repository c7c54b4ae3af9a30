"""The schema of report.json, for every test that has a report."""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from reports import report_schema

SCHEMA = report_schema()


def mistakes(report: Any) -> list[str]:
    """List the differences of a report from the schema."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(report)]


def read_report(folder: Path) -> dict[str, Any]:
    """A folder's report.json, which keeps to the schema."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert mistakes(report) == []
    return report
