"""Write the report of a run: report.json, its plots, and report.md rendered from it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reports.files import write_atomically
from reports.markdown import PLOTS, render
from reports.plots import write_plots
from reports.rows import Report


def write_report(report: Report, folder: Path) -> Path:
    """Write `report.json`, `plots/*.png` and `report.md` into a folder, each atomically.

    report.md holds nothing that report.json does not; report.json comes last, so that whoever finds it finds the rest.
    Figures that are not finite become null.

    Args:
        report: The report, schema 1; numpy values, tuples and paths are allowed.
        folder: The output folder; made if it is missing.

    Returns:
        The path of report.md.
    """
    plain = to_json(report)
    text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_plots(plain, folder / PLOTS)
    path = write_atomically(folder / "report.md", render(plain))
    write_atomically(folder / "report.json", text)
    return path


def to_json(value: Any) -> Any:
    """The value with only what JSON knows: None for NaN and infinities, lists for arrays, text for paths."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
