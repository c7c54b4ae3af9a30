"""Per-layer tables: kernel, kept terms, treatment and reason of each layer, and its errors of fit and rounding."""

from collections.abc import Sequence
from typing import NamedTuple

from reports import text
from reports.fields import CODED
from reports.model import Layer, Report
from reports.text import MISSING, basis_name, config_name, target_name, with_settings


class Group(NamedTuple):
    """Layers of one config and target, of every basis that treats them alike.

    Attributes:
        title: Name of the config and target, with the settings of its run.
        bases: The bases.
        layers: For each basis, its layers in network order.
    """

    title: str
    bases: list[str]
    layers: list[list[Layer]]


class _Errors(NamedTuple):
    """Measured errors of one basis: column titles, and one tuple of cells per layer."""

    titles: list[str]
    cells: list[tuple[str, ...]]


def layer_tables(report: Report, style: text.Style = "markdown") -> dict[str, str]:
    """Draw one table per config; configs and bases with equal tables share one.

    Returns:
        {title: table}. A title names the configs (``6,3,3,2,2``), and the basis if the bases differ in structure.
    """
    titles: dict[str, list[str]] = {}
    for group in layer_groups(report):
        titles.setdefault(_table(group, style), []).append(group.title)
    return {"; ".join(names): table for table, names in titles.items()}


def layer_groups(report: Report) -> list[Group]:
    """Group the layers by config, target and settings; bases that treat every layer alike share a group."""
    by_config: dict[str, dict[str, list[Layer]]] = {}
    for layer in report.layers:
        name = " at ".join(part for part in (config_name(layer.config), target_name(layer)) if part)
        by_basis = by_config.setdefault(with_settings(name, layer), {})
        by_basis.setdefault(layer.basis, []).append(layer)
    groups: list[Group] = []
    for name, by_basis in by_config.items():
        layers = list(by_basis.values())
        if all(_structure(other) == _structure(layers[0]) for other in layers):
            groups.append(Group(name, list(by_basis), layers))
        else:
            groups += [Group(f"{basis_name(basis)} {name}", [basis], [own]) for basis, own in by_basis.items()]
    return groups


def rounding_bits(layers: Sequence[Layer]) -> list[str]:
    """Return the bit widths at which a layer has a measured rounding error, in descending order, ``coded`` last."""
    errors = [layer.rounding_error or {} for layer in layers]
    found = {bits for each in errors for bits, value in each.items() if value is not None}
    return sorted(found, key=lambda bits: 0 if bits == CODED else int(bits), reverse=True)


def rounding_error(layer: Layer, bits: str) -> float | None:
    """Return the relative output error of rounding the layer to ``bits``; None if it was not measured."""
    return (layer.rounding_error or {}).get(bits)


def _structure(layers: Sequence[Layer]) -> list[list[str]]:
    return [_description(layer) for layer in layers]


def _description(layer: Layer) -> list[str]:
    return [layer.name, _size(layer.kernel), _order(layer), layer.status, layer.reason or MISSING]


def _order(layer: Layer) -> str:
    """Return the order; if the kept terms do not fill it, their number follows: ``3x3 (7 terms)``."""
    if layer.order is None or layer.terms in (None, layer.order[0] * layer.order[1]):
        return _size(layer.order)
    return f"{_size(layer.order)} ({layer.terms} terms)"


def _size(pair: Sequence[int] | None) -> str:
    return MISSING if pair is None else "x".join(str(side) for side in pair)


def layer_table(group: Group) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the cells of a group's table; the first five columns are words."""
    headers = ["Layer", "Kernel", "Order", "Status", "Why"]
    rows = [_description(layer) for layer in group.layers[0]]
    for errors in _error_columns(group):
        headers += errors.titles
        rows = [row + list(cells) for row, cells in zip(rows, errors.cells, strict=True)]
    return headers, rows


def _table(group: Group, style: text.Style) -> str:
    headers, rows = layer_table(group)
    return text.draw(headers, rows, 5, style)


def _error_columns(group: Group) -> list[_Errors]:
    """Return the error columns of each basis; bases with equal figures share their columns."""
    shared: dict[tuple[tuple[str, ...], ...], tuple[_Errors, list[str]]] = {}
    for basis, own in zip(group.bases, group.layers, strict=True):
        errors = _errors(own)
        if errors.titles:
            shared.setdefault(tuple(errors.cells), (errors, []))[1].append(basis)
    if len(shared) <= 1:
        return [errors for errors, _ in shared.values()]
    return [
        _Errors([f"{'/'.join(map(basis_name, bases))} {title}" for title in errors.titles], errors.cells)
        for errors, bases in shared.values()
    ]


def _errors(layers: Sequence[Layer]) -> _Errors:
    bits = rounding_bits(layers)
    fitted = any(layer.fit_error is not None for layer in layers)
    titles = ["fit error"] * fitted + ["rounding error" if width == CODED else f"{width}-bit error" for width in bits]
    cells = [
        (*[text.error(layer.fit_error)] * fitted, *(text.error(rounding_error(layer, width)) for width in bits))
        for layer in layers
    ]
    return _Errors(titles, cells)
