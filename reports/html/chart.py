"""The size plot in Vega-Lite. Its colours are variables of the page's style sheet, which dark mode changes.

The page sets two parameters of the plot: ``hidden`` holds the numbers of the rows that the pickers hide, and
``pointed`` the number of the row that is pointed at, or null. Every layer has the name of its data, because altair's
own names count the charts of a process.
"""

import math
from typing import Any, Final, Literal, NamedTuple

import altair as alt

from reports.html.plot import File, Line, Look, Plot
from reports.plots import marks

_HEIGHT: Final = 400
"""Height of the plot without axes and legend, in pixels."""
_PIXELS: Final = 4 / 3
"""Pixels per point."""
_FONT: Final = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
_RINGED: Final = Look(marks.RING_NAME, "var(--muted)", "ring")

_SHAPES: Final = {
    **{"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "P": "cross"},
    "-": "M-1,-.14H1V.14H-1Z",
    "--": "M-1,-.14H-.3V.14H-1ZM.3,-.14H1V.14H.3Z",
    "ring": "M1,0A1,1,0,1,1,-1,0A1,1,0,1,1,1,0ZM.7,0A.7,.7,0,1,0,-.7,0A.7,.7,0,1,0,.7,0Z",
    "*": "M{}Z".format(
        "L".join(
            f"{radius * math.sin(turn * math.pi / 5):.3f},{-radius * math.cos(turn * math.pi / 5):.3f}"
            for turn, radius in enumerate((1, 0.4) * 5)
        )
    ),
}
"""Markers -> shapes of Vega. A path lies within -1 to 1 and is filled, because the legend fills all of its shapes."""

_SHOWN: Final = "indexof(hidden, datum.row) < 0"
_POINTED: Final = "pointed === null || pointed === datum.row"
# The wheel alone and a finger scroll the page.
_ZOOM: Final = "wheel![event.ctrlKey || event.metaKey]"
_MOVE: Final = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"


class _Axes(NamedTuple):
    """Channel of the sizes, and arguments of the channels of Top-1. Every layer shares them."""

    x: alt.X
    top1: dict[str, Any]

    def y(self, field: str = "top1") -> alt.Y:
        """Return the channel of a field in percent."""
        return alt.Y(f"{field}:Q", **self.top1)


def specification(plot: Plot) -> dict[str, Any]:
    """Return the plot as a specification for vega-embed."""
    axes = _axes(plot)
    original = [file for file in plot.files if file.row is None]
    rings = [(file, size) for file, size in zip(plot.files, plot.rings(), strict=True) if size]
    layers = [
        *([_band(original, axes), _level(original, axes)] if original else []),
        *(_line(f"line{place}", line, axes) for place, line in enumerate(plot.lines)),
        _whiskers(plot, axes),
        _points(plot, axes, _looks(plot, bool(rings))),
        *([_rings(rings, axes)] if rings else []),
    ]
    chart = alt.layer(*layers).properties(
        width="container",
        height=_HEIGHT,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        background="transparent",
        config=_config(),
        usermeta={"embedOptions": _embedding([layer.name for layer in layers])},
    )
    chart = chart.add_params(alt.param(name="hidden", value=[]), alt.param(name="pointed", value=None))
    found = chart.to_dict()
    del found["$schema"]  # a newer altair may name a newer Vega-Lite than the page has, and vega-embed would warn
    return found


def _axes(plot: Plot) -> _Axes:
    kind: Literal["log", "linear"] = "log" if plot.size.log else "linear"
    sizes = alt.Scale(type=kind, domain=[plot.size.low, plot.size.high], nice=False)
    x = alt.X("size:Q", title=marks.SIZE_TITLE, scale=sizes, axis=alt.Axis(format="~g", tickCount=8))
    top1 = alt.Scale(domain=[plot.top1.low, plot.top1.high], nice=False)
    return _Axes(x, {"title": marks.TOP1_TITLE, "scale": top1, "axis": alt.Axis(tickCount=6)})


def _chart(name: str, values: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=values, name=name), name=name)


def _values(file: File) -> dict[str, Any]:
    low, high = file.ends or (file.top1, file.top1)
    place = {"row": file.row, "size": file.size_mb, "top1": file.top1, "low": low, "high": high}
    return place | {"color": file.look.color, "words": file.words}


def _encoded(chart: alt.Chart, **channels: Any) -> alt.Chart:
    encoded: alt.Chart = chart.encode(**channels)  # to mypy, any type
    return encoded


def _stroke() -> alt.Stroke:
    return alt.Stroke("color:N", scale=None)


def _area() -> alt.Size:
    return alt.Size("area:Q", scale=None, legend=None)


def _opacity(full: float) -> Any:
    return alt.when(_POINTED).then(alt.value(full)).otherwise(alt.value(0.2 * full))


def _band(original: list[File], axes: _Axes) -> alt.Chart:
    """Draw the interval of the original as a band."""
    chart = _chart("band", [_values(file) for file in original]).mark_rect(opacity=0.13, clip=True)
    return _encoded(chart, y=axes.y("low"), y2="high:Q", fill=alt.Fill("color:N", scale=None))


def _level(original: list[File], axes: _Axes) -> alt.Chart:
    """Draw the Top-1 of the original as a line."""
    chart = _chart("level", [_values(file) for file in original]).mark_rule(opacity=0.8, strokeDash=[2, 3], clip=True)
    return _encoded(chart, y=axes.y(), stroke=_stroke())


def _line(name: str, line: Line, axes: _Axes) -> alt.Chart:
    """Draw a frontier, or a line through targets."""
    chart = _chart(name, [_values(file) for file in line.files]).mark_line(
        color=line.look.color,
        strokeWidth=1.5,
        strokeDash=[5, 4] if line.look.marker == "--" else [1, 0],
        opacity=0.75,
        clip=True,
    )
    return _encoded(chart.transform_filter(_SHOWN) if line.picked else chart, x=axes.x, y=axes.y())


def _whiskers(plot: Plot, axes: _Axes) -> alt.Chart:
    """Draw the interval of each file."""
    chart = _chart("whiskers", [_values(file) for file in plot.files if file.ends])
    chart = chart.mark_rule(strokeWidth=1.2, clip=True).transform_filter(_SHOWN)
    return _encoded(chart, x=axes.x, y=axes.y("low"), y2="high:Q", stroke=_stroke(), opacity=_opacity(0.5))


def _points(plot: Plot, axes: _Axes, looks: list[Look]) -> alt.Chart:
    """Draw the mark of each file, and the legend."""
    names = [look.name for look in looks]
    colors = alt.Scale(domain=names, range=[look.color for look in looks])
    shapes = alt.Scale(domain=names, range=[_SHAPES[look.marker] for look in looks])
    legend = alt.Legend(title=None, orient="bottom", labelLimit=420, rowPadding=5)
    legend.columns = alt.ExprRef("max(1, floor(width / 230))")
    ranks = {row: rank for rank, row in enumerate(plot.labels)}
    values = [
        _values(file)
        | {"name": file.look.name, "area": _square(file.look.size)}
        | ({} if file.row not in ranks else {"label": plot.labels[file.row], "rank": ranks[file.row]})
        for file in plot.files
    ]
    chart = _chart("points", values).mark_point(filled=True, stroke="var(--page)", strokeWidth=1, clip=True)
    zoom = alt.selection_interval(name="zoom", bind="scales", zoom=_ZOOM, translate=_MOVE, clear="dblclick")
    return _encoded(
        chart.transform_filter(_SHOWN).add_params(zoom),
        x=axes.x,
        y=axes.y(),
        color=alt.Color("name:N", scale=colors, legend=legend),
        shape=alt.Shape("name:N", scale=shapes, legend=legend),
        size=_area(),
        opacity=_opacity(1),
        tooltip="words:N",
    )


def _rings(rings: list[tuple[File, float]], axes: _Axes) -> alt.Chart:
    """Draw a ring around each mark that another one hides."""
    chart = _chart("rings", [_values(file) | {"area": _square(size)} for file, size in rings])
    chart = chart.mark_point(filled=False, shape="circle", strokeWidth=1.7, clip=True).transform_filter(_SHOWN)
    return _encoded(chart, x=axes.x, y=axes.y(), stroke=_stroke(), size=_area(), opacity=_opacity(1), tooltip="words:N")


def _square(size: float) -> int:
    """Return the area of a mark in square pixels from its diameter in points."""
    return round((_PIXELS * size) ** 2)


def _looks(plot: Plot, ringed: bool) -> list[Look]:
    """Return the entries of the legend, each name once."""
    files = [file.look for file in plot.files]
    every = [*files, *(line.look for line in plot.lines), *([_RINGED] if ringed else [])]
    return list({look.name: look for look in every}.values())


def _embedding(layers: list[str]) -> dict[str, Any]:
    """Return the options of vega-embed, which add the labels: Vega can place them without overlap, Vega-Lite cannot."""
    labels = {
        "type": "text",
        "from": {"data": "points_marks"},
        "interactive": False,
        "clip": True,
        "encode": {
            "enter": {
                "text": {"field": "datum.label"},
                "fill": {"value": "var(--ink)"},
                "font": {"value": _FONT},
                "fontSize": {"value": 12},
            }
        },
        "transform": [
            {
                "type": "label",
                "size": {"signal": "[max(width, 20), height]"},  # the width is 0 before the first layout
                "sort": {"field": "datum.rank"},
                "offset": [4, 4, 4, 4, 2, 2, 2, 2],
                "anchor": ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"],
                "avoidMarks": [f"{layer}_marks" for layer in layers if layer.startswith(("line", "rings"))],
                "padding": -4,  # a label keeps this distance from the frame
            }
        ],
    }
    return {
        "mode": "vega-lite",
        "actions": False,
        "ast": True,  # the security policy of the page forbids to compile expressions
        "renderer": "svg",
        "defaultStyle": False,
        "tooltip": {"disableDefaultStyle": True},
        "patch": [{"op": "add", "path": "/marks/-", "value": labels}],
    }


def _config() -> dict[str, Any]:
    ink, muted, line = ("var(--ink)", "var(--muted)", "var(--line)")
    return {
        "aria": False,  # the page describes the plot
        "font": _FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "gridColor": line,
            "domainColor": muted,
            "tickColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
        },
        "legend": {"labelColor": ink, "labelFontSize": 12, "symbolSize": 110, "symbolStrokeWidth": 0},
    }
