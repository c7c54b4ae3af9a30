"""Plot of the relative output errors of fit and rounding, layer by layer."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.fields import CODED
from reports.layers import Group, layer_groups, rounding_bits, rounding_error
from reports.model import Layer, Report
from reports.plots import style
from reports.text import basis_name, brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-5
"""Smallest drawn error; smaller errors are floating-point noise and are drawn here."""

_MARK_STYLE: dict[str, Any] = {
    "linestyle": "none",
    "markeredgecolor": "white",
    "markeredgewidth": 0.6,
    "clip_on": False,
}

_ACROSS = 4
"""Largest number of panels in a line."""


class _Mark(NamedTuple):
    """One kind of error: its legend, colour, the basis that sets its shape, and one error per layer."""

    name: str
    color: str
    shape: str
    errors: list[float | None]


def layer_figure(report: Report) -> "Figure":
    """Draw one panel per config and one line per layer, with a mark for each measured error on a logarithmic axis.

    The colour distinguishes the errors, and the shape of the mark distinguishes the bases.
    """
    panels = [(group, shown) for group in layer_groups(report) if (shown := _shown(group))]
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    height = 1.2 + down * (0.5 + 0.22 * max(len(shown) for _, shown in panels))
    figure = style.new_figure(2.2 + 3.1 * max(across, 1.7), height)
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for place, (axis, (group, shown)) in enumerate(zip(axes, panels, strict=False)):
        _panel(axis, group, shown)
        if place % across and _names(panels[place]) == _names(panels[place - 1]):
            axis.set_yticklabels([])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    errors = [error for group, _ in panels for mark in _marks(group) for error in mark.errors if error is not None]
    _finish(figure, list(axes[: len(panels)]), errors)
    return figure


def _shown(group: Group) -> list[int]:
    """Return the positions of the layers with at least one measured error."""
    return [place for place in range(len(group.layers[0])) if any(_measured(own[place]) for own in group.layers)]


def _measured(layer: Layer) -> bool:
    return layer.fit_error is not None or bool(rounding_bits([layer]))


def _names(panel: tuple[Group, list[int]]) -> list[str]:
    group, shown = panel
    return [group.layers[0][place].name for place in shown]


def _marks(group: Group) -> list[_Mark]:
    """Return every kind of error that was measured in the group."""
    marks: list[_Mark] = []
    for basis, own in zip(group.bases, group.layers, strict=True):
        name, shape = (f"{basis_name(basis)} ", basis) if len(group.bases) > 1 else ("", "cosine")
        marks.append(_Mark(f"{name}fit", style.INK, shape, [layer.fit_error for layer in own]))
        for bits in rounding_bits(own):
            errors = [rounding_error(layer, bits) for layer in own]
            rounding = "rounding" if bits == CODED else f"rounding to {bits} bits"
            marks.append(_Mark(f"{name}{rounding}", style.bits_color(bits), shape, errors))
    return [mark for mark in marks if any(error is not None for error in mark.errors)]


def _shape(basis: str) -> dict[str, Any]:
    return {"marker": style.basis_marker(basis), "markersize": 0.9 * style.basis_size(basis)}


def _panel(axis: "Axes", group: Group, shown: list[int]) -> None:
    for name, color, basis, errors in _marks(group):
        found = [(max(error, FLOOR), line) for line, place in enumerate(shown) if (error := errors[place]) is not None]
        axis.plot(*zip(*found, strict=True), color=color, label=name, **_MARK_STYLE, **_shape(basis))
    axis.set_yticks(range(len(shown)), _names((group, shown)), fontsize=8)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xscale("log")
    axis.set_title(brief(group.title), fontsize=10, color=style.INK)
    axis.grid(color=style.GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelbottom=True)


def _finish(figure: "Figure", axes: Sequence["Axes"], errors: Sequence[float]) -> None:
    """Draw one scale and one title for the shared axis, and one legend for all panels.

    The axis spans whole decades, so that at least two ticks have a label.
    """
    from matplotlib.ticker import NullFormatter

    low = math.floor(math.log10(max(min(errors), FLOOR)))
    high = max(low + 1, math.ceil(math.log10(max(*errors, FLOOR))))
    for axis in axes:
        axis.set_xlim(0.7 * 10.0**low, 1.4 * 10.0**high)
        axis.xaxis.set_minor_formatter(NullFormatter())
    named = {name: handle for axis in axes for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    floor = f" (below {FLOOR:g} drawn at {FLOOR:g})" if min(errors) < FLOOR else ""
    figure.supxlabel(f"Relative error of the layer's output{floor}", fontsize=10)
    figure.legend(list(named.values()), list(named), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
