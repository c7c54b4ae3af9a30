"""Draw filter slices as pictures: one coloured square per weight, on one scale for a layer."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from markupsafe import Markup

from reports.model import Report, Slice
from reports.text import fit_name, sides_text

_POSITIVE: Final = (178, 24, 43)
_NEGATIVE: Final = (33, 102, 172)
_NAMED_CELLS: Final = 5
"""Largest side of a slice whose weights are written into the squares."""
_SIDE: Final = 24

Matrix = Sequence[Sequence[float | None]]


class Picture(NamedTuple):
    """A picture and its caption."""

    caption: str
    drawing: Markup


class Filter(NamedTuple):
    """The pictures of the slices of one layer: as trained, then each fit."""

    layer: str
    pictures: list[Picture]


def filters(report: Report) -> list[Filter]:
    """Return the pictures of every layer with slices; in a merged report, it has one slice for each of its orders."""
    kernels = report.kernels
    layers: dict[str, list[Slice]] = {}
    for part in () if kernels is None else (kernels, *kernels.further):
        layers.setdefault(part.layer, []).append(part)
    return [_filter(layer, parts) for layer, parts in layers.items()]


def _filter(layer: str, parts: Sequence[Slice]) -> Filter:
    matrices = [matrix for part in parts for matrix in (part.original, *part.fits.values())]
    limit = max(abs(value) for matrix in matrices for value in _values(matrix)) or 1.0
    pictures = []
    for place, part in enumerate(parts):
        if all(part.original != other.original for other in parts[:place]):
            sides = sides_text((len(part.original), len(part.original[0])))
            pictures.append(Picture(f"As trained, {sides} weights", _drawn(part.original, limit)))
        for basis, fit in part.fits.items():
            caption = f"{fit_name(basis, part.orders)}, error {_error(part.original, fit):.1f} %"
            pictures.append(Picture(caption, _drawn(fit, limit)))
    return Filter(layer, pictures)


def _values(matrix: Matrix) -> list[float]:
    return [value or 0.0 for row in matrix for value in row]


def _error(original: Matrix, fit: Matrix) -> float:
    """Return the relative error of a fit, in percent."""
    trained = _values(original)
    return 100 * math.dist(trained, _values(fit)) / (math.hypot(*trained) or 1.0)


def _drawn(matrix: Matrix, limit: float) -> Markup:
    width, height = _SIDE * len(matrix[0]), _SIDE * len(matrix)
    named = max(len(matrix), len(matrix[0])) <= _NAMED_CELLS
    cells = Markup("").join(
        _cell(column, row, value or 0.0, limit, named=named)
        for row, values in enumerate(matrix)
        for column, value in enumerate(values)
    )
    return Markup('<svg class="filter" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(width, height, cells)


def _cell(column: int, row: int, value: float, limit: float, *, named: bool) -> Markup:
    share, end = abs(value) / limit, _POSITIVE if value > 0 else _NEGATIVE
    color = "#" + "".join(f"{round(255 + share * (part - 255)):02x}" for part in end)
    left, top = _SIDE * column, _SIDE * row
    square = Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>')
    drawn = square.format(left, top, _SIDE, _SIDE, color, f"{value:.4f}")
    if not named:
        return drawn
    text = Markup('<text x="{}" y="{}" fill="{}">{}</text>')
    ink = "#ffffff" if share > 0.6 else "#222222"
    return drawn + text.format(left + _SIDE / 2, top + _SIDE / 2, ink, f"{value:z.2f}")
