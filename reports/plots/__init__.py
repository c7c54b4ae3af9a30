"""The plots of a report, as PNG files whose bytes depend on the report alone.

matplotlib is imported only when a plot is drawn, and only its object interface is used: no pyplot, no global state.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reports.files import write_atomically
from reports.layers import layer_groups, rounding_bits
from reports.rows import Report, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_names(report: Report) -> list[str]:
    """The file names of the plots that this report has the figures for, in the order they are shown."""
    has = {
        "size_top1.png": bool(measured(report["rows"])),
        "kernels.png": bool(report.get("kernels")),
        "layer_errors.png": _errors_measured(report),
    }
    return [name for name, drawn in has.items() if drawn]


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Draw the plots of a report into a folder, and remove those of an earlier report that this one lacks.

    Args:
        report: The report, as in report.json.
        folder: Where the PNG files go; made if it is missing.

    Returns:
        The files written, in the order they are shown.
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
    """The figure as PNG, without the metadata that would tie the bytes to a library's version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _errors_measured(report: Report) -> bool:
    layers = [layer for _, _, each in layer_groups(report) for own in each for layer in own]
    return bool(rounding_bits(layers)) or any(layer.get("fit_error") is not None for layer in layers)
