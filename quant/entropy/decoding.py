"""Decode a stream to groups and blocks of integers; see the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError
from quant.entropy import rans, tables
from quant.entropy.bits import BitReader, read_varint
from quant.entropy.classes import MOST_CLASSES, Classes
from quant.entropy.tables import Table

Integers = npt.NDArray[Any]
Shape = tuple[int, int, int]

_MAX_LANES_LOG: Final = 20
_LOOKUPS: Final = 64  # in memory at a time: each takes 96 kB
_STATE_BYTES, _WORD_BYTES = 4, 2
_NOTHING: Final = np.zeros(rans.TOTAL, np.uint32)


def decode(
    data: bytes, counts: Sequence[int], shapes: Sequence[Shape] = ()
) -> tuple[list[npt.NDArray[np.int32]], list[npt.NDArray[np.int32]]]:
    """Decode a stream.

    Args:
        data: From ``encode``.
        counts: Number of integers of each group.
        shapes: Shape of each block, (terms, rows, columns).

    Returns:
        The groups and the blocks, int32.

    Raises:
        CompressionError: The stream is damaged, or does not have groups and blocks of these sizes.
    """
    stream = _read(data, counts, shapes)
    decoder, escapes = rans.Decoder(stream.coded), BitReader(stream.escapes)
    lookup = lru_cache(maxsize=_LOOKUPS)(lambda table: rans.lookup(table.frequencies))
    groups = []
    for table, count in zip(stream.tables, stream.counts, strict=True):
        if table.kind == tables.CONSTANT or not count:
            groups.append(np.full(count, table.low, np.int32))
        else:
            symbols = decoder.take(count, lookup(table))
            groups.append(_integers(symbols, table.low, table.escape, escapes))
    classes = iter(_classes_of(groups[len(counts) :], shapes, stream.has_classes))
    terms = iter(groups[len(counts) + (3 if any(stream.has_classes) else 0) :])
    class_tables = _ClassTables(stream.class_tables) if stream.class_tables else None
    blocks = []
    for shape, has_classes in zip(shapes, stream.has_classes, strict=True):
        if has_classes:
            assert class_tables is not None  # checked by _read
            block = class_tables.decode(next(classes), shape, decoder, escapes)
        else:
            block = np.stack([next(terms) for _ in range(shape[0])]).reshape(shape)
        blocks.append(block)
    decoder.finish()
    escapes.finish()
    return groups[: len(counts)], blocks


@dataclass(frozen=True)
class _Stream:
    """The parts of a stream.

    Attributes:
        has_classes: For each block.
        counts: Number of integers of each group, also of those of blocks.
        tables: The table of each group.
        class_tables: The table of each class.
        coded: The symbols.
        escapes: Bits of the escaped integers.
    """

    has_classes: list[bool]
    counts: list[int]
    tables: list[Table]
    class_tables: list[Table]
    coded: rans.Coded
    escapes: bytes


def _read(data: bytes, counts: Sequence[int], shapes: Sequence[Shape]) -> _Stream:
    """Split a stream into its parts, each within the bytes that there are."""
    if not data or data[0] > _MAX_LANES_LOG:
        raise CompressionError(
            f"an entropy-coded stream starts with {data[:1]!r}; allowed: a byte of at most {_MAX_LANES_LOG}"
        )
    position, numbers = 1, []
    for _ in range(4):
        number, position = read_varint(data, position)
        numbers.append(number)
    described, words, claimed, classes = numbers
    ends = list(accumulate([position, described, _STATE_BYTES << data[0], _WORD_BYTES * words]))
    if ends[-1] > len(data):
        raise CompressionError(f"an entropy-coded stream claims {ends[-1]} bytes, but has {len(data)}; allowed: both")
    descriptions, recent = BitReader(data[ends[0] : ends[1]]), tables.Recent()
    has_classes = [bool(descriptions.read(1)) for _ in shapes]
    all_counts = [*counts, *_more_counts(shapes, has_classes)]
    if claimed != len(all_counts):
        raise CompressionError(
            f"an entropy-coded stream has {claimed} groups; allowed: {len(all_counts)}, as its table says"
        )
    if not any(has_classes) <= classes <= MOST_CLASSES * any(has_classes):
        raise CompressionError(
            f"an entropy-coded stream has {classes} classes; allowed: 1 to {MOST_CLASSES}, or none without blocks that "
            "have them"
        )
    read = [tables.read_table(descriptions, recent) for _ in range(claimed + classes)]
    descriptions.finish()
    states = np.frombuffer(data[ends[1] : ends[2]], "<u4").astype(np.uint32)
    coded = rans.Coded(states, np.frombuffer(data[ends[2] : ends[3]], "<u2"))
    return _Stream(has_classes, all_counts, read[:claimed], read[claimed:], coded, data[ends[3] :])


def _more_counts(shapes: Sequence[Shape], has_classes: Sequence[bool]) -> list[int]:
    """Return the numbers of integers of the groups of blocks."""
    with_classes = [shape for shape, has in zip(shapes, has_classes, strict=True) if has]
    counts = [sum(sizes) for sizes in zip(*with_classes, strict=True)]
    for (terms, *sides), has in zip(shapes, has_classes, strict=True):
        counts += [] if has else [math.prod(sides)] * terms
    return counts


def _classes_of(groups: Sequence[Integers], shapes: Sequence[Shape], has_classes: Sequence[bool]) -> list[Classes]:
    """Return the classes of the blocks that have them, from the groups after the given ones."""
    with_classes = [shape for shape, has in zip(shapes, has_classes, strict=True) if has]
    if not with_classes:
        return []
    parts = []
    for group, sizes in zip(groups, zip(*with_classes, strict=True), strict=False):
        # Sums of int32 in int64 do not overflow.
        parts.append(np.split(group.astype(np.int64), np.cumsum(sizes)[:-1]))
    return [Classes(np.cumsum(steps), rows, columns) for steps, rows, columns in zip(*parts, strict=True)]


class _ClassTables:
    """The tables of all classes, one after the other."""

    def __init__(self, chosen: Sequence[Table]) -> None:
        self._low = np.array([table.low for table in chosen], np.int64)
        self._coded = np.array([table.kind != tables.CONSTANT for table in chosen], bool)
        self._escape = np.array([table.escape for table in chosen], np.int64)
        lookups = [
            rans.lookup(table.frequencies) if coded else rans.Lookup(_NOTHING.astype(np.uint16), _NOTHING)
            for table, coded in zip(chosen, self._coded, strict=True)
        ]
        self._lookup = rans.joined(lookups)

    def decode(self, classes: Classes, shape: Shape, decoder: rans.Decoder, escapes: BitReader) -> Integers:
        """Decode the integers of a block, (terms, rows, columns), from their classes; one term at a time."""
        integers = np.empty(shape, np.int32)
        for term, values in enumerate(integers):
            of_term = classes.of_term(term, len(self._low))
            values[:] = self._low[of_term]
            coded = self._coded[of_term]
            own = of_term[coded]
            starts = own.astype(np.uint32) << np.uint32(rans.PRECISION)
            symbols = decoder.take(len(own), self._lookup, starts)
            values[coded] = _integers(symbols, self._low[own], self._escape[own], escapes)
        return integers


def _integers(
    symbols: npt.NDArray[np.uint16],
    low: int | npt.NDArray[np.int64],
    escape: int | npt.NDArray[np.int64],
    escapes: BitReader,
) -> npt.NDArray[np.int32]:
    """Return the integers of symbols.

    Args:
        symbols: (symbols,).
        low: The first integer of the table, of all symbols or of each.
        escape: The escape of the table, likewise.
        escapes: The escaped integers.
    """
    integers = (symbols.astype(np.int64) + low).astype(np.int32)
    for place in (symbols == escape).nonzero()[0].tolist():
        integers[place] = escapes.read_integer()
    return integers
