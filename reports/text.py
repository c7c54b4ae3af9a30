"""Text of a report: names of networks, rows and settings, table cells, and drawn tables.

Every function of a figure accepts None for a figure that was not measured and returns ``-`` for it.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from tabulate import tabulate

from reports.fields import FAMILIES, Settings
from reports.html.table import html_table
from reports.model import DENSE, Layer, Row

Style = Literal["markdown", "plain", "html"]

MISSING: Final = "-"
LISTED: Final = 3
"""Number of items that a sentence lists before it only counts the others."""

_WIDEST: Final = 80
"""Most characters of a label in a plot."""
_BASES = {"cosine": "CosConv", "chebyshev": "ChebConv", "fracsrf": "FracSRF", "fractional": "Fractional"}
_CONVNEXT = {"tiny": "T", "small": "S", "base": "B", "large": "L"}
_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"wide_resnet(\d+)_(\d+)", r"Wide ResNet-\1-\2"),
    (r"resnet(\d+)", r"ResNet-\1"),
    (r"resnext(\d+)_(\w+)", r"ResNeXt-\1 \2"),
    (r"vgg(\d+)", r"VGG-\1"),
    (r"vgg(\d+)_bn", r"VGG-\1 BN"),
    (r"densenet(\d+)", r"DenseNet-\1"),
    (r"alexnet", "AlexNet"),
    (r"googlenet", "GoogLeNet"),
    (r"mobilenet_v2", "MobileNetV2"),
    (r"mobilenet_v3_(\w+)", r"MobileNetV3 \1"),
    (r"efficientnet_b(\d)", r"EfficientNet-B\1"),
)


def model_name(name: str | None) -> str:
    """Return the name of a network as papers print it: ``ResNet-18`` for ``resnet18``.

    An unknown name is returned unchanged.
    """
    if name is None:
        return "Network"
    if name.startswith("convnext_") and name.removeprefix("convnext_") in _CONVNEXT:
        return f"ConvNeXt-{_CONVNEXT[name.removeprefix('convnext_')]}"
    for pattern, printed in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(printed)
    return name


def basis_name(basis: str) -> str:
    """Return the poster's name of a basis, such as CosConv."""
    return _BASES.get(basis, basis)


def fit_name(basis: str, orders: Sequence[int] | None) -> str:
    """Return the name of a filter's fit: the basis and the terms per axis, or a parametric family, which has none."""
    if basis in FAMILIES or orders is None:
        return basis_name(basis)
    return f"{basis_name(basis)}, order {sides_text(orders)}"


def sides_text(sides: Sequence[int]) -> str:
    """Return sizes of several axes, such as ``7×7``."""
    return "×".join(str(side) for side in sides)


def config_name(config: str) -> str:
    """Return the poster's name of a config: Conv2D for ``dense``; orders are returned unchanged."""
    return "Conv2D" if config == DENSE else config


def width_heading(rows: Sequence[Row]) -> str:
    """Return the heading of a column of ``width_name``."""
    return "Bits or target" if any(row.has_target for row in rows) else "Bits"


def width_name(row: Row) -> str:
    """Return the row's target, or its bits and other stored bits: ``0.04 MB``, ``4``, ``4 (12 stored)``."""
    if row.has_target:
        return target_name(row)
    return str(row.bits) if row.stored_bits == row.bits else f"{row.bits} ({row.stored_bits} stored)"


def bits_name(row: Row) -> str:
    """Return the row's bits or target in words: ``4 bits``, ``4 bits (12 stored)``, ``0.04 MB``."""
    if row.has_target:
        return target_name(row)
    bits, _, stored = width_name(row).partition(" ")
    return f"{bits} bits {stored}".rstrip()


def target_name(part: Row | Layer) -> str:
    """Return the target of a row or layer: ``0.04 MB``, ``0.5 points``; empty if it has none."""
    if part.target_mb is not None:
        return f"{part.target_mb:.12g} MB"
    return (
        "" if part.target_drop is None else f"{part.target_drop:.12g} {'point' if part.target_drop == 1 else 'points'}"
    )


def settings_name(settings: Settings | None) -> str:
    """Return the settings of a run as a label: ``seed 1, qat epochs 5``; empty if there are none."""
    return ", ".join(_setting(name, value) for name, value in (settings or {}).items())


def with_settings(text: str, part: Row | Layer) -> str:
    """Return the text, followed by the settings of the row or layer if there are any: ``3,3,2,2 (seed 1)``."""
    settings = settings_name(part.settings)
    return f"{text} ({settings})" if settings else text


def brief(text: str) -> str:
    """Shorten text for a plot: long text keeps its beginning and its end, as in ``2,2 ... 2,3``."""
    half = (_WIDEST - 5) // 2
    return text if len(text) <= _WIDEST else f"{text[:half]} ... {text[-half:]}"


def row_name(row: Row, *others: Row) -> str:
    """Return a short name of a row: ``CosConv 3,3,2,2 at 4 bits``, ``CosConv auto at 0.04 MB``, ``dense at 3 bits``.

    Further rows that differ only in bits or target are named with it: ``CosConv 3,3,2,2 at 8 bits and 4 bits``.
    """
    what = DENSE if row.is_dense else f"{basis_name(row.basis)} {row.config}"
    *widths, last = map(bits_name, (row, *others))
    every = f"{', '.join(widths)} and {last}" if widths else last
    return with_settings(f"{what} at {every}", row)


def listed(items: Sequence[str], shown: int = LISTED) -> str:
    """Join the first ``shown`` items with commas, followed by the number of further items."""
    text = ", ".join(items[:shown])
    return text if len(items) <= shown else f"{text} and {len(items) - shown} more"


def quantity(number: int, unit: str) -> str:
    """Return a number and its unit, which gets an s for more than one: ``1 thread``, ``2 threads``."""
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def points(value: float | None) -> str:
    """Format Top-1 or another percentage with two decimals: ``91.73``."""
    return MISSING if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Format a difference in percentage points with its sign, unless it rounds to zero: ``-0.56``."""
    if value is None:
        return MISSING
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def megabytes(value: float | None) -> str:
    """Format a size in MB (10^6 bytes) with three significant digits: ``44.7``, ``2.83``, ``0.0781``."""
    if value is None:
        return MISSING
    if value <= 0:
        return f"{value:.2f}"
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def ratio(value: float | None) -> str:
    """Format a ratio of sizes with two decimals, from 10 on with one: ``1.04``, ``21.4``."""
    return MISSING if value is None else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def span(ends: tuple[float, float] | None) -> str:
    """Format an interval of percentages: ``91.18 to 92.25``."""
    return MISSING if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def probability(value: float | None) -> str:
    """Format a p-value with two significant digits; small ones as a bound: ``0.69``, ``0.0032``, ``< 0.0001``."""
    if value is None:
        return MISSING
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def milliseconds(value: float | None) -> str:
    """Format a duration in milliseconds with three significant digits: ``0.412``, ``12.3``, ``1530``."""
    return MISSING if value is None else f"{float(f'{value:.3g}'):.12g}"


def count(value: int | None) -> str:
    """Format a whole number with commas between thousands: ``11,172,032``."""
    return MISSING if value is None else f"{value:,}"


def error(value: float | None) -> str:
    """Format a relative error with three significant digits: ``0.0132``, ``1.2e-05``."""
    return MISSING if value is None else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """Format a duration with one decimal: ``71.2 s``."""
    return MISSING if value is None else f"{value:.1f} s"


def plain(value: Any) -> str:
    """Format any value; list items are joined with semicolons, and None and empty values become ``-``."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, list | tuple):
        return "; ".join(plain(item) for item in value) or MISSING
    return str(value)


def escape(text: str) -> str:
    """Escape markdown's markup in a text, so that one table cell shows it unchanged.

    Underscores inside words are not escaped, because GitHub's markdown shows them unchanged.
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
    """Draw a table.

    Args:
        headers: One title per column.
        rows: The cells, formatted by the functions above.
        text_columns: Number of leading columns that are left-aligned, or their positions; the other columns are
            right-aligned figures.
        style: ``markdown`` and ``html`` escape the cells; ``plain`` is for a terminal.

    Returns:
        The table, without a final newline.
    """
    left = range(text_columns) if isinstance(text_columns, int) else text_columns
    align = ["left" if column in left else "right" for column in range(len(headers))]
    if style == "html":
        return html_table(headers, rows, left)
    if style == "plain":
        return tabulate(rows, list(headers), "simple", disable_numparse=True, colalign=align if rows else None)
    escaped = [[escape(cell) for cell in row] for row in rows]
    titles = [escape(header) for header in headers]
    return tabulate(escaped, titles, "pipe", disable_numparse=True, colalign=align if rows else None)


def _setting(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {'by default' if value is None else value}"
