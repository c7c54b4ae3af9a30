"""Draw the size plot as SVG inside the page, in its colours, once for wide and once for narrow screens."""

import io
import re
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from reports.model import Report, Row
from reports.plots import style
from reports.rows import baseline, measured, unique_rows
from reports.text import megabytes, points, row_name, span
from reports.verdict import interval

if TYPE_CHECKING:
    from reports.plots.size import Canvas

_VARIABLES: Final = {
    "#ffffff": "--page",
    "#000000": "--ink",
    style.INK: "--ink",
    style.MUTED: "--muted",
    style.GRID: "--line",
    style.DENSE_COLOR: "--dense",
    **{color: f"--{basis}" for basis, color in style.BASIS_COLORS.items()},
    style.BASELINE_COLOR: "--baseline",
}
"""Colours of the plots -> variables of the page's style sheet, which dark mode changes."""
_FONTS: Final = "'DejaVu Sans', Verdana, sans-serif"


def size_drawings(report: Report) -> list[Markup]:
    """Return the plot for wide and for narrow screens; empty without measured rows."""
    if not measured(report.rows):
        return []
    from reports.plots.size import Canvas

    canvases = {"wide": Canvas(labels=12), "narrow": Canvas(4.3, 5.4, columns=2, labels=5)}
    return [_drawn(report, name, canvas) for name, canvas in canvases.items()]


def described(report: Report) -> str:
    """Return the words that stand for the plot where it is not seen."""
    base = baseline(report)
    return (
        f"Plot of file size against Top-1 of {len(measured(unique_rows(report)))} files and the original "
        f"({megabytes(base.size_mb)} MB, Top-1 {points(base.top1)}). The table below has the figures."
    )


def _drawn(report: Report, name: str, canvas: "Canvas") -> Markup:
    import matplotlib

    from reports.plots.size import mark_id, size_figure

    # The salt makes the ids in the drawing depend on the report alone.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure = size_figure(report, canvas)
        figure.patch.set_visible(False)
        for axis in figure.axes:
            axis.patch.set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    marks = {mark_id(row): (number, _words(report, row)) for number, row in enumerate(unique_rows(report))}
    return Markup(_recoloured(_renamed(_bare(buffer.getvalue(), name), name, marks)))


def _words(report: Report, row: Row) -> str:
    """Describe the mark of a row: ``CosConv 3,3,2,2 at 4 bits: 0.0553 MB, Top-1 87.80 (84.64 to 90.38)``."""
    ends = interval(report, row.top1_quant)
    figures = f"{megabytes(row.size_mb)} MB, Top-1 {points(row.top1_quant)}"
    return f"{row_name(row)}: {figures}" + (f" ({span(ends)})" if ends else "")


def _bare(svg: str, name: str) -> str:
    """Return the element ``svg`` alone, without its fixed size, its namespaces and its metadata."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    opening = f'<svg viewBox="{box[1] if box else ""}" class="{name}" aria-hidden="true">'
    return re.sub(r"<svg [^>]*>", opening, svg, count=1).replace("xlink:href", "href").strip()


def _renamed(svg: str, name: str, marks: dict[str, tuple[int, str]]) -> str:
    """Give the marks of each row its number and a title, and every other id a prefix, because ids are unique."""
    for gid, (number, words) in marks.items():
        group = Markup('<g data-mark="{}"><title>{}</title>').format(number, words)
        svg = svg.replace(Markup('<g id="{}">').format(gid), group)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', svg)
    return re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", svg)


def _recoloured(svg: str) -> str:
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", rf"font: \1 {_FONTS}", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg
