"""Text of a report: names of networks, rows and settings, table cells, and drawn tables.

Every function of a figure accepts None for a figure that was not measured and returns `-` for it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tabulate import tabulate

DENSE = "dense"

LISTED = 3
"""Items that a sentence lists before it only counts them."""

_BASES = {"cosine": "CosConv", "chebyshev": "ChebConv"}
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


def model_name(name: str) -> str:
    """The name of a network as papers print it; a name that is not known is given back as it is."""
    if name.startswith("convnext_") and name.removeprefix("convnext_") in _CONVNEXT:
        return f"ConvNeXt-{_CONVNEXT[name.removeprefix('convnext_')]}"
    for pattern, printed in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(printed)
    return name


def basis_name(basis: str) -> str:
    """The poster's name of a basis: CosConv, ChebConv."""
    return _BASES.get(basis, basis)


def config_name(config: str) -> str:
    """The poster's name of a config: `dense` is Conv2D, orders stay as they are."""
    return "Conv2D" if config == DENSE else config


def stored_bits(row: Mapping[str, Any]) -> int:
    """Bits that a value of the row takes in its file; a report that does not say has integers of `bits` bits."""
    return int(row.get("stored_bits") or row["bits"])


def width_name(row: Mapping[str, Any]) -> str:
    """The row's bits, with those that are stored where they are others: `4`, `4 (12 stored)`."""
    bits, stored = row["bits"], stored_bits(row)
    return str(bits) if stored == bits else f"{bits} ({stored} stored)"


def bits_name(row: Mapping[str, Any]) -> str:
    """The row's bits in words, as in `width_name`: `4 bits`, `4 bits (12 stored)`."""
    bits, _, stored = width_name(row).partition(" ")
    return f"{bits} bits {stored}".rstrip()


def settings_name(row: Mapping[str, Any]) -> str:
    """What tells a row of a merged report from those of other runs: `seed 1, qat epochs 5`; empty if nothing does."""
    return ", ".join(_setting(name, value) for name, value in (row.get("settings") or {}).items())


def with_settings(text: str, row: Mapping[str, Any]) -> str:
    """The text, with the row's settings behind it where it has any: `3,3,2,2 (seed 1)`."""
    settings = settings_name(row)
    return f"{text} ({settings})" if settings else text


def row_name(row: Mapping[str, Any]) -> str:
    """One row of the report in a few words: `CosConv 6,3,3,2,2 at 4 bits`, `dense at 3 bits (seed 1)`."""
    what = DENSE if row["config"] == DENSE else f"{basis_name(row['basis'])} {row['config']}"
    return with_settings(f"{what} at {bits_name(row)}", row)


def listed(items: Sequence[str], shown: int = LISTED) -> str:
    """The first few items, and how many more there are."""
    text = ", ".join(items[:shown])
    return text if len(items) <= shown else f"{text} and {len(items) - shown} more"


def _setting(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {'by default' if value is None else value}"


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
