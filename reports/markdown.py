"""Render report.md from the content of report.json."""

import re

from reports.model import Report
from reports.plots import plot_names
from reports.rows import baseline
from reports.sections import Block, Bullets, Code, Definitions, Heading, Paragraph, Plots, Table, sections, title
from reports.summary import summarise
from reports.text import escape

PLOTS = "plots"
"""Folder of the plots, in the folder of report.md."""

_CAPTIONS = {
    "size_top1.png": "File size against Top-1, with 95 % intervals",
    "kernels.png": "One filter as trained, and its reconstruction in each basis",
    "layer_errors.png": "Relative output error of fit and rounding, layer by layer",
}


def render(report: Report) -> str:
    """Render a report as markdown.

    Args:
        report: The report of a finished run, or of several merged runs.

    Returns:
        The text of report.md, ending in one newline. It shows the plots of ``plot_names`` from the folder ``plots/``.

    Raises:
        ValueError: The report has no baseline, because its run failed.
    """
    warnings = [f"> **Warning:** {escape(warning)}." for warning in baseline(report).warnings]
    parts = [f"# {escape(title(report))}", *warnings, escape(summarise(report))]
    for section in sections(report, "markdown"):
        bodies = [body for block in section.blocks if (body := _body(block, report))]
        parts += [f"## {section.title}", *bodies] if bodies else []
    return "\n\n".join(parts) + "\n"


def _body(block: Block, report: Report) -> str:
    match block:
        case Paragraph(text):
            return escape(text)
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Definitions(items):
            return "\n".join(f"- {item}" for item in items)
        case Heading(text):
            return f"### {escape(text)}"
        case Table(drawn):
            return drawn
        case Code(text):
            return _code(text)
        case Plots():
            return "\n\n".join(f"![{_CAPTIONS[name]}]({PLOTS}/{name})" for name in plot_names(report))


def _code(command: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in the command."""
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
