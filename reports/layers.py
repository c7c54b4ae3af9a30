"""The per-layer table: what became of each layer, why, and how much error the fit and the rounding added there."""

from collections.abc import Sequence

from reports import text
from reports.rows import Report, Row
from reports.text import basis_name, config_name, with_settings

Group = tuple[str, list[str], list[list[Row]]]
"""A config's name with the settings of its run, its bases, and for each basis the layers in network order."""


def layer_tables(report: Report, style: text.Style = "markdown") -> dict[str, str]:
    """One table a config, under its title; configs and bases with the same table share one.

    Returns:
        {title: table}. Titles name the configs (`6,3,3,2,2`), and the basis where the bases differ in structure.
    """
    titles: dict[str, list[str]] = {}
    for group in layer_groups(report):
        titles.setdefault(_table(group, style), []).append(group[0])
    return {"; ".join(names): table for table, names in titles.items()}


def layer_groups(report: Report) -> list[Group]:
    """The layers by config and settings, with the bases together where they treat every layer alike."""
    by_config: dict[str, dict[str, list[Row]]] = {}
    for layer in report.get("layers") or []:
        by_config.setdefault(with_settings(config_name(layer["config"]), layer), {}).setdefault(
            layer["basis"], []
        ).append(layer)
    groups: list[Group] = []
    for name, by_basis in by_config.items():
        layers = list(by_basis.values())
        if all(_structure(other) == _structure(layers[0]) for other in layers):
            groups.append((name, list(by_basis), layers))
        else:
            groups += [(f"{basis_name(basis)} {name}", [basis], [own]) for basis, own in by_basis.items()]
    return groups


def rounding_bits(layers: Sequence[Row]) -> list[str]:
    """The bit widths at which a rounding error was measured in any of the layers, the widest first."""
    errors = [layer.get("rounding_error") or {} for layer in layers]
    found = {bits for each in errors for bits, value in each.items() if value is not None}
    return sorted(found, key=int, reverse=True)


def rounding_error(layer: Row, bits: str) -> float | None:
    """The relative output error that rounding to `bits` added in this layer, None where not measured."""
    value = (layer.get("rounding_error") or {}).get(bits)
    return None if value is None else float(value)


def _structure(layers: Sequence[Row]) -> list[tuple[str, ...]]:
    return [tuple(_description(layer)) for layer in layers]


def _description(layer: Row) -> list[str]:
    sizes = (_size(layer.get("kernel")), _size(layer.get("order")))
    return [layer["name"], *sizes, layer["status"], layer.get("reason") or text.MISSING]


def _size(pair: Sequence[int] | None) -> str:
    return text.MISSING if pair is None else "x".join(str(side) for side in pair)


def _table(group: Group, style: text.Style) -> str:
    _, bases, layers = group
    headers = ["Layer", "Kernel", "Order", "Status", "Why"]
    rows = [_description(layer) for layer in layers[0]]
    for titles, columns in _error_columns(bases, layers):
        headers += titles
        rows = [row + list(errors) for row, errors in zip(rows, columns, strict=True)]
    return text.draw(headers, rows, 5, style)


def _error_columns(bases: list[str], layers: list[list[Row]]) -> list[tuple[list[str], list[tuple[str, ...]]]]:
    """For each basis its titles and, layer by layer, its error cells; bases with the same figures share them."""
    shared: dict[tuple[tuple[str, ...], ...], tuple[list[str], list[str]]] = {}
    for basis, own in zip(bases, layers, strict=True):
        titles, cells_ = _errors(own)
        if titles:
            shared.setdefault(tuple(cells_), (titles, []))[1].append(basis)
    if len(shared) <= 1:
        return [(titles, list(columns)) for columns, (titles, _) in shared.items()]
    return [
        ([f"{'/'.join(map(basis_name, names))} {title}" for title in titles], list(columns))
        for columns, (titles, names) in shared.items()
    ]


def _errors(layers: list[Row]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Titles and cells of the errors that were measured in one basis' layers."""
    bits = rounding_bits(layers)
    fitted = any(layer.get("fit_error") is not None for layer in layers)
    titles = ["fit error"] * fitted + [f"{width}-bit error" for width in bits]
    rows = [
        tuple(
            [text.error(layer.get("fit_error"))] * fitted + [text.error(rounding_error(layer, width)) for width in bits]
        )
        for layer in layers
    ]
    return titles, rows
