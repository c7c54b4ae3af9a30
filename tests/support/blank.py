"""Plots without content, for tests of runs that do not look at them."""

from pathlib import Path

from reports.model import Report
from reports.plots import plot_names


def blank_plots(report: Report, folder: Path) -> list[Path]:
    """Write empty files in place of the plots of ``reports.plots.write_plots``, with the same names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in plot_names(report)]
    for path in folder.glob("*.png"):
        path.unlink()
    for path in paths:
        path.touch()
    return paths
