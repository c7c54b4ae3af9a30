"""The poster's kernel figure: one filter as trained, and its reconstructions by series and parametric families."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from reports.model import Report
from reports.plots import style
from reports.text import fit_name, sides_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3
"""Largest number of panels in a line."""
_NAMED_CELLS = 5
"""Largest kernel side with values written into the cells."""


def kernel_figure(report: Report) -> "Figure":
    """Draw heat maps of the original filter and its fits on one colour scale that is white at zero.

    Raises:
        ValueError: The report has no kernels.
    """
    data = report.kernels
    if data is None:
        raise ValueError("kernel_figure: got a report without kernels; allowed: a report with kernels")
    original = np.asarray(data.original, dtype=np.float64)
    fits = {basis: np.asarray(values, dtype=np.float64) for basis, values in data.fits.items()}
    limit = max(np.abs(values).max() for values in (original, *fits.values())) or 1.0
    count = 1 + len(fits)
    down = -(-count // _ACROSS)
    across = -(-count // down)
    figure = style.new_figure(2.7 * across + 0.9, 3.4 * down)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    _heat_map(axes[0], original, limit, f"Original\n{sides_text(original.shape)} weights")
    for axis, (basis, values) in zip(axes[1:], fits.items(), strict=False):
        _heat_map(axis, values, limit, _fit_title(basis, data.orders, original, values))
    for axis in axes[count:]:
        axis.set_visible(False)
    figure.colorbar(axes[0].images[0], ax=list(axes), label="Weight", shrink=0.85)
    figure.suptitle(f"One filter of {data.layer}", fontsize=11, color=style.INK)
    return figure


def _fit_title(
    basis: str, orders: Sequence[int] | None, original: npt.NDArray[np.float64], fit: npt.NDArray[np.float64]
) -> str:
    norm = float(np.linalg.norm(original)) or 1.0
    error = 100 * float(np.linalg.norm(fit - original)) / norm
    return f"{fit_name(basis, orders)}\nerror {error:.1f} %"


def _heat_map(axis: "Axes", values: npt.NDArray[np.float64], limit: float, title: str) -> None:
    axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axis.set_title(title, fontsize=10, color=style.INK)
    axis.set_xticks([])
    axis.set_yticks([])
    if max(values.shape) <= _NAMED_CELLS:
        for (row, column), value in np.ndenumerate(values):
            color = "white" if abs(value) > 0.6 * limit else style.INK
            axis.text(column, row, f"{value:z.2f}", ha="center", va="center", fontsize=8, color=color)
