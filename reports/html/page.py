"""Render report.html from the content of report.json: one file that needs no network and no other file."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any, Final

from markupsafe import Markup

from reports import sections
from reports.bytes import bytes_table, kinds
from reports.html import parts
from reports.html.filters import filters
from reports.html.plot import described, size_plot
from reports.html.vega import with_vega
from reports.model import Report
from reports.rows import baseline
from reports.summary import summarise

_NOTICES: Final = {sections.FAILURES: "bad", sections.WARNINGS: "warn", sections.ROLLED_BACK: "warn"}
_OWN: Final = (*_NOTICES, sections.CHOICE, sections.LAYERS, sections.PLOTS, sections.BYTES)
"""Sections that the page draws in its own way."""


def render_page(report: Report) -> str:
    """Render a report as one page of HTML.

    Args:
        report: The report of a finished run, or of several merged runs.

    Returns:
        The text of report.html. Equal reports have equal pages.

    Raises:
        ValueError: The report has no baseline, because its run failed.
    """
    found, plot = sections.sections(report, "html"), plot_specification(report)
    page: str = _template().render(
        title=sections.title(report),
        warnings=baseline(report).warnings,
        summary=summarise(report),
        tiles=parts.tiles(report),
        notices=[(each, _NOTICES[each.title]) for each in found if each.title in _NOTICES],
        pickers=parts.pickers(report),
        choice=parts.choice(report),
        plot=plot,
        described=described(report),
        stacks=parts.stacks(report),
        kinds=kinds(report),
        bytes_table=bytes_table(report, "html"),
        layer_sizes=parts.layer_sizes(report),
        layers=parts.layers(report),
        filters=filters(report),
        sections=[each for each in found if each.title not in _OWN],
        style=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
        plot_script=Markup(with_vega(_resource("plot.js"))) if plot else None,
    )
    return page


def plot_specification(report: Report) -> dict[str, Any] | None:
    """Return the size plot in Vega-Lite; None without measured rows, which need no altair."""
    plot = size_plot(report)
    if plot is None:
        return None
    from reports.html.chart import specification

    return specification(plot)


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "terms": _terms,
        "anchor": _anchor,
        "digest": _digest,
        "kind": lambda block: type(block).__name__,
    }
    return environment.from_string(_resource("page.html.jinja"))


@cache
def _resource(name: str) -> str:
    return resources.files("reports.html").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _terms(text: str) -> Markup:
    """Return a definition with its terms in bold; everything else is escaped."""
    pieces = enumerate(text.split("**"))
    return Markup("").join(Markup("<strong>{}</strong>" if n % 2 else "{}").format(each) for n, each in pieces)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
