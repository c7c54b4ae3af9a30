"""Text of one table cell, and the drawing of a whole table.

Every function accepts None for a figure that was not measured and gives `-` for it: no figure is ever invented.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal

from tabulate import tabulate

Style = Literal["markdown", "plain"]

MISSING = "-"


def points(value: float | None) -> str:
    """Top-1 or another percentage, two decimals: `91.73`."""
    return MISSING if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A difference in percentage points, always with its sign unless it rounds to zero: `-0.56`."""
    if value is None:
        return MISSING
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def megabytes(value: float | None) -> str:
    """A size in MB (10^6 bytes) with three significant digits: `44.7`, `2.83`, `0.0781`."""
    if value is None:
        return MISSING
    if value <= 0:
        return f"{value:.2f}"
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def count(value: int | None) -> str:
    """A whole number with thousands marked: `11,172,032`."""
    return MISSING if value is None else f"{value:,}"


def error(value: float | None) -> str:
    """A relative error with three significant digits: `0.0132`, `1.2e-05`."""
    return MISSING if value is None else f"{value:.3g}"


def escape(text: str) -> str:
    """Make any text safe in one cell of a markdown table: shown as it is, never read as markup.

    Underscores inside words stay bare, as GitHub's markdown reads them literally there.
    """
    flat = " ".join(text.split())
    flat = re.sub(r"([\\`*|<>\[\]~])", r"\\\1", flat)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)


def draw(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int | Sequence[int] = 1,
    style: Style = "markdown",
) -> str:
    """Draw a table with tabulate.

    Args:
        headers: One title a column.
        rows: The cells, already turned into text by the functions above.
        text_columns: How many leading columns are text (left-aligned), or which ones; the others hold figures.
        style: `markdown` escapes the cells; `plain` is for a terminal.

    Returns:
        The table, without a final newline.
    """
    left = range(text_columns) if isinstance(text_columns, int) else text_columns
    align = ["left" if column in left else "right" for column in range(len(headers))]
    if style == "plain":
        return tabulate(rows, list(headers), "simple", disable_numparse=True, colalign=align if rows else None)
    escaped = [[escape(cell) for cell in row] for row in rows]
    titles = [escape(header) for header in headers]
    return tabulate(escaped, titles, "pipe", disable_numparse=True, colalign=align if rows else None)
