"""Plots without content, for tests of runs that do not look at them."""

from pathlib import Path

from reports.files import write_atomically
from reports.model import Report
from reports.plots import plot_names


def blank_plots(report: Report, folder: Path) -> list[Path]:
    """Write empty files in place of the plots of ``reports.plots.write_plots``, with the same names."""
    names = plot_names(report)
    for path in folder.glob("*.png"):
        if path.name not in names:
            path.unlink()
    return [write_atomically(folder / name, b"") for name in names]
