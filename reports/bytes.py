"""Tables of the bytes of the files, by kind of content and by layer."""

from reports import text
from reports.fields import CODED
from reports.layers import Group, layer_groups
from reports.model import Report, Row
from reports.rows import unique_rows
from reports.text import row_name


def accounted(report: Report) -> list[Row]:
    """Return the rows whose bytes were accounted for, the largest file first."""
    rows = [row for row in unique_rows(report) if row.file_bytes]
    return sorted(rows, key=lambda row: -sum((row.file_bytes or {}).values()))


def kinds(report: Report) -> list[str]:
    """Return every kind of content that takes bytes in a file, in the order of the files."""
    found = dict.fromkeys(kind for row in accounted(report) for kind, size in (row.file_bytes or {}).items() if size)
    return list(found)


def bytes_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the bytes of each file by kind of content, the largest file first; empty if no row was accounted for."""
    rows, names = accounted(report), kinds(report)
    lines = [
        [row_name(row), text.count(sum(own.values())), *(text.count(own.get(name)) for name in names)]
        for row in rows
        if (own := row.file_bytes)
    ]
    return (
        text.draw(["File of", "All (bytes)", *(name.capitalize() for name in names)], lines, 1, style) if rows else ""
    )


def byte_widths(group: Group) -> list[str]:
    """Return the widths at which the layers of a group have sizes, in descending order, ``coded`` last."""
    found = {width for own in group.layers for layer in own for width in (layer.file_bytes or {})}
    return sorted(found, key=lambda width: 0 if width == CODED else int(width), reverse=True)


def byte_groups(report: Report) -> list[Group]:
    """Return the groups of layers with at least one size."""
    return [group for group in layer_groups(report) if byte_widths(group)]
