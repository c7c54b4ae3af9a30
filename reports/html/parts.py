"""Parts of the page that report.md draws in another way: tiles, pickers, and tables with attributes and bars."""

import math
from typing import Final, NamedTuple

from markupsafe import Markup

from reports import text
from reports.bytes import accounted, byte_groups, byte_widths, kinds
from reports.choice import change, choice_lines, times_smaller
from reports.fields import CODED
from reports.html.table import Attributes, html_table
from reports.layers import Group, layer_groups, layer_table
from reports.model import Report, Row
from reports.rows import baseline, baseline_top1, unique_rows
from reports.summary import chosen_row
from reports.text import basis_name, config_name, row_name, settings_name, target_name, width_name

PICKED: Final = {"basis": "Basis", "config": "Config", "width": "Bits or target", "settings": "Settings"}
"""Pickers: the name of each in the markup, and its label."""

SMALLEST_ERROR: Final = 1e-5
"""Error with a bar of length zero. A bar is full at an error of 1, and its length is logarithmic."""


class Tile(NamedTuple):
    """A figure of the row that the summary names."""

    label: str
    figure: str
    words: str


class Picker(NamedTuple):
    """A choice that filters rows: its name in the markup, its label and its values."""

    name: str
    label: str
    values: list[str]


class Stack(NamedTuple):
    """A file as a stacked bar.

    Attributes:
        name: Name of the row.
        attributes: See ``row_attributes``.
        length: Length of the bar, from 0 to 100.
        pieces: (kind of content, its number, bytes) of each piece.
        total: Bytes of the file, formatted.
    """

    name: str
    attributes: Attributes
    length: float
    pieces: list[tuple[str, int, int]]
    total: str


class Folded(NamedTuple):
    """A table that can be folded: its title, its attributes for the pickers, and the table."""

    title: str
    attributes: Attributes
    table: Markup


def tiles(report: Report) -> list[Tile]:
    """Return the figures of the row that the summary names."""
    chosen = chosen_row(report)
    if chosen is None:
        return []
    row, base = chosen.row, baseline(report)
    smaller = f"of {text.megabytes(base.size_mb)} MB, {text.ratio(times_smaller(report, row))} times smaller"
    before = text.points(baseline_top1(report, row))
    found = [
        Tile("File", f"{text.megabytes(chosen.size_mb)} MB", smaller),
        Tile("Top-1", text.points(chosen.top1), f"{text.signed(change(report, row))} points against {before}"),
    ]
    if row.mcnemar_p is not None:
        images = f"{text.count(row.images_lost)} images lost, {text.count(row.images_gained)} gained"
        words = f"{images}, McNemar p {text.probability(row.mcnemar_p)}"
        found.append(Tile("Same predictions", f"{text.points(row.agreement)} %", words))
    return [*found, Tile("Row", row_name(row), "the row that the summary names")]


def row_attributes(number: int, row: Row) -> Attributes:
    """Return the attributes by which the page finds a row: its number, and its value for each picker."""
    own = {"data-row": str(number), "data-config": config_name(row.config), "data-width": width_name(row)}
    own |= {} if row.is_dense else {"data-basis": basis_name(row.basis)}
    return own | ({"data-settings": settings_name(row.settings)} if row.settings else {})


def pickers(report: Report) -> list[Picker]:
    """Return the choices that have more than one value."""
    found = [row_attributes(0, row) for row in unique_rows(report)]
    every = [
        Picker(name, label, list(dict.fromkeys(each[key] for each in found if (key := f"data-{name}") in each)))
        for name, label in PICKED.items()
    ]
    return [picker for picker in every if len(picker.values) > 1]


def choice(report: Report) -> Markup | str:
    """Return the table for choosing a file, whose lines the pickers filter; empty without rows."""
    numbers, (headers, lines) = _numbers(report), choice_lines(report)
    attributes: list[Attributes] = [
        {"class": "original"} if row is None else row_attributes(numbers[id(row)], row) for row, _ in lines
    ]
    return html_table(headers, [cells for _, cells in lines], (0,), attributes) if report.rows else ""


def layers(report: Report) -> list[Folded]:
    """Return the table of each group of layers, with bars behind the errors."""
    return [Folded(group.title, _attributes(report, group), _error_table(group)) for group in layer_groups(report)]


def layer_sizes(report: Report) -> list[Folded]:
    """Return the table of bytes of each group of layers, with bars behind the bytes."""
    return [Folded(group.title, _attributes(report, group), _bytes_table(group)) for group in byte_groups(report)]


def stacks(report: Report) -> list[Stack]:
    """Return the bar of each file whose bytes were accounted for, the largest first."""
    names, numbers = kinds(report), _numbers(report)
    sizes = [(row, row.file_bytes or {}) for row in accounted(report)]
    largest = max((sum(own.values()) for _, own in sizes), default=1)
    return [
        Stack(
            row_name(row),
            row_attributes(numbers[id(row)], row),
            round(100 * sum(own.values()) / largest, 2),
            [(name, number, own[name]) for number, name in enumerate(names) if own.get(name)],
            text.count(sum(own.values())),
        )
        for row, own in sizes
    ]


def _numbers(report: Report) -> dict[int, int]:
    """Return the number of each row, by its identity."""
    return {id(row): number for number, row in enumerate(unique_rows(report))}


def _attributes(report: Report, group: Group) -> Attributes:
    """Return the values of a group for each picker, one a line: those of the rows whose layers it has."""
    layer = group.layers[0][0]
    rows = [
        row_attributes(0, row)
        for row in unique_rows(report)
        if row.basis in group.bases
        and (row.config, target_name(row), row.settings) == (layer.config, target_name(layer), layer.settings)
    ]
    shared = [key for name in PICKED if rows and all((key := f"data-{name}") in row for row in rows)]
    found = {key: "\n".join(dict.fromkeys(row[key] for row in rows)) for key in shared}
    return {"data-config": config_name(layer.config)} | found


def _error_table(group: Group) -> Markup:
    headers, rows = layer_table(group)
    errors = [place for place, header in enumerate(headers) if header.endswith("error")]
    bars = {place: [_error_bar(cells[place]) for cells in rows] for place in errors}
    return html_table(headers, rows, range(5), bars=bars)


def _error_bar(cell: str) -> float | None:
    """Return the length of the bar behind an error, from 0 to 1; None if it was not measured."""
    if cell == text.MISSING:
        return None
    return min(1.0, 1 - math.log(max(float(cell), SMALLEST_ERROR)) / math.log(SMALLEST_ERROR))


def _bytes_table(group: Group) -> Markup:
    columns = [
        (f"{_basis(group, basis)}{_width_words(width)}", [(layer.file_bytes or {}).get(width) for layer in own])
        for basis, own in zip(group.bases, group.layers, strict=True)
        for width in byte_widths(group)
    ]
    largest = max((size for _, sizes in columns for size in sizes if size), default=1)
    names = [layer.name for layer in group.layers[0]]
    rows = [[name, *(text.count(sizes[place]) for _, sizes in columns)] for place, name in enumerate(names)]
    bars = {
        number: [None if size is None else size / largest for size in sizes]
        for number, (_, sizes) in enumerate(columns, start=1)
    }
    return html_table(["Layer", *(title for title, _ in columns)], rows, (0,), bars=bars)


def _basis(group: Group, basis: str) -> str:
    return f"{basis_name(basis)}, " if len(group.bases) > 1 else ""


def _width_words(width: str) -> str:
    return "bytes at the target" if width == CODED else f"bytes at {width} bits"
