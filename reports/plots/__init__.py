"""Plots of a report, as PNG files whose bytes depend on the report alone.

matplotlib is imported only when a plot is drawn. Only its object interface is used, without pyplot's global state.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reports.files import write_atomically
from reports.layers import rounding_bits
from reports.model import Report
from reports.rows import measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_names(report: Report) -> list[str]:
    """Return the file names of the plots for which the report has figures, in the order of report.md."""
    has = {
        "size_top1.png": bool(measured(report.rows)),
        "kernels.png": report.kernels is not None,
        "layer_errors.png": _errors_measured(report),
    }
    return [name for name, drawn in has.items() if drawn]


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Draw the plots of a report into a folder, and remove an earlier report's plots that this report lacks.

    Args:
        report: The report.
        folder: Folder of the PNG files; created if it is missing.

    Returns:
        The written files, in the order of report.md.

    Raises:
        OSError: A file cannot be written.
    """
    names = plot_names(report)
    for name in _drawers():
        if name not in names:
            (folder / name).unlink(missing_ok=True)
    return [write_atomically(folder / name, _png(_drawers()[name](report))) for name in names]


def _drawers() -> dict[str, Callable[[Report], "Figure"]]:
    from reports.plots.kernels import kernel_figure
    from reports.plots.layers import layer_figure
    from reports.plots.size import size_figure

    return {"size_top1.png": size_figure, "kernels.png": kernel_figure, "layer_errors.png": layer_figure}


def _png(figure: "Figure") -> bytes:
    """Encode the figure as PNG without metadata, because metadata would change with the library's version."""
    from reports.plots.style import fix_layout

    fix_layout(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _errors_measured(report: Report) -> bool:
    return bool(rounding_bits(report.layers)) or any(layer.fit_error is not None for layer in report.layers)
