"""Write the report of a run: report.json, its plots, report.md and report.html."""

import json
from pathlib import Path

from reports.files import write_atomically
from reports.html.page import render_page
from reports.markdown import PLOTS, render
from reports.model import Report
from reports.plots import write_plots


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json``, ``plots/*.png``, ``report.md`` and ``report.html`` into a folder, each atomically.

    report.md and report.html show only content of report.json. report.json is written last, so that a reader who finds
    it also finds the other files.

    Args:
        report: The report of a finished run, or of several merged runs.
        folder: The output folder; created if it is missing.

    Returns:
        The path of report.md.

    Raises:
        OSError: A file cannot be written.
    """
    content = json.dumps(report.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_plots(report, folder / PLOTS)
    path = write_atomically(folder / "report.md", render(report))
    write_atomically(folder / "report.html", render_page(report))
    write_atomically(folder / "report.json", content)
    return path
