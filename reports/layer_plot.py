"""Where the error comes from: the relative output error of fit and rounding, layer by layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports import palette
from reports.layers import Group, layer_groups, rounding_bits, rounding_error
from reports.names import basis_name
from reports.rows import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-5
"""Smaller errors are drawn here: they are rounding of floating point, not of the method."""

_ACROSS = 4
"""Panels in a line."""

Mark = tuple[str, str, str, list[float | None]]
"""Name, colour, mark, and one error a layer."""


def layer_figure(report: Report) -> "Figure":
    """A panel a config, a line a layer in network order, a mark for each measured error, on a logarithmic axis."""
    from matplotlib.figure import Figure

    panels = [(group, shown) for group in layer_groups(report) if (shown := _shown(group))]
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    height = 1.1 + down * (0.6 + 0.23 * max(len(shown) for _, shown in panels))
    figure = Figure(figsize=(2.4 + 3.1 * max(across, 1.6), height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for place, (axis, (group, shown)) in enumerate(zip(axes, panels, strict=False)):
        _panel(axis, group, shown)
        if place % across and _names(shown) == _names(panels[place - 1][1]):
            axis.set_yticklabels([])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, axes)
    return figure


def _shown(group: Group) -> list[int]:
    """Positions of the layers with at least one measured error."""
    _, _, layers = group
    return [place for place in range(len(layers[0])) if any(_measured(own[place]) for own in layers)]
