"""Tables of HTML, which the script of the page makes sortable."""

from collections.abc import Collection, Mapping, Sequence

from markupsafe import Markup

Attributes = Mapping[str, str]

_LONG = 24
"""Characters from which a cell of words is broken into lines."""


def html_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Collection[int],
    attributes: Sequence[Attributes] = (),
    bars: Mapping[int, Sequence[float | None]] | None = None,
) -> Markup:
    """Draw a table; every title, cell and attribute is escaped.

    Args:
        headers: One title per column.
        rows: The cells, formatted.
        left: Positions of the left-aligned columns of words. The other columns are figures.
        attributes: Attributes of each line: name -> value; none by default.
        bars: Column -> length of the bar behind each of its cells, from 0 to 1, or None for no bar.
    """
    titles = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(_kind(place in left), title) for place, title in enumerate(headers)
    )
    lines = Markup("\n").join(
        Markup("<tr{}>{}</tr>").format(
            _attributes(attributes[number] if attributes else {}),
            Markup("").join(
                _cell(cell, place in left, place, ((bars or {}).get(place) or [None] * len(rows))[number])
                for place, cell in enumerate(cells)
            ),
        )
        for number, cells in enumerate(rows)
    )
    return Markup("<table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>").format(titles, lines)


def _cell(text: str, words: bool, place: int, bar: float | None) -> Markup:
    if place == 0 and words:
        return Markup('<th scope="row">{}</th>').format(text)
    if bar is None:
        kind = Markup(' class="long"') if words and len(text) > _LONG else _kind(words)
        return Markup("<td{}>{}</td>").format(kind, text)
    return Markup('<td class="n bar" style="--length:{:.1f}%"><span>{}</span></td>').format(100 * bar, text)


def _kind(words: bool) -> Markup:
    return Markup("") if words else Markup(' class="n"')


def _attributes(attributes: Attributes) -> Markup:
    return Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in attributes.items())
