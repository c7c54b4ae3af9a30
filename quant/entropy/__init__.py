"""Code integers without loss by their entropy: static frequency tables and interleaved rANS, integers only.

A stream of groups of integers, each with a table of its own:

    byte 0                 log2 of the number of lanes, which have at most 65,536 symbols each
    varint                 bytes of the tables
    varint                 number of words
    varint                 number of groups whose tables follow
    tables                 bits: the description of each group's table, see ``quant.entropy.tables``
    states                 4 bytes for each lane, little-endian
    words                  2 bytes each, little-endian, see ``quant.entropy.rans``
    escapes                bits, to the end: the integers outside the tables, in order, each as a signed integer

A varint has 7 bits in a byte, lowest first; the highest bit is set in all bytes but the last. The symbols of all groups
follow one another in the lanes; a group whose table is a constant has none. The decoder needs the number of integers of
every group. No operation of it depends on floating point, so a stream gives the same integers on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError
from quant.entropy import rans, tables
from quant.entropy.bits import BitReader, BitWriter
from quant.entropy.choice import choose_tables
from quant.entropy.tables import Table

__all__ = ["coded_sizes", "decode", "encode"]

Integers = npt.NDArray[Any]

_STATES_SHARE: Final = 0.004
"""Largest share of a stream that the states of the lanes take."""
_MAX_LANES_LOG: Final = 20
_ROWS_LOG: Final = 16
"""log2 of the most symbols of a lane: it bounds the time of decoding, which takes one step for a row of all lanes."""
_LOOKUPS: Final = 64  # in memory at a time: each takes 96 kB
_STATE_BYTES, _WORD_BYTES = 4, 2


def encode(groups: Sequence[Integers]) -> bytes:
    """Encode groups of integers.

    Args:
        groups: One-dimensional arrays of integers in the range of int32; a group has integers of one statistics.

    Returns:
        The stream; equal groups give equal streams.
    """
    chosen = choose_tables(groups)
    descriptions, escapes = BitWriter(), BitWriter()
    frequencies, sums = [], []
    for group, choice in zip(groups, chosen, strict=True):
        choice.write(descriptions)
        table = choice.table
        if table.kind != tables.CONSTANT and len(group):
            symbols = table.symbols(group)
            frequencies.append(table.frequencies[symbols].astype(np.uint32))
            sums.append((np.cumsum(table.frequencies) - table.frequencies)[symbols].astype(np.uint32))
            for value in group[symbols == table.escape].tolist():
                escapes.write_integer(value)
    f, c = (np.concatenate(parts) if parts else np.empty(0, np.uint32) for parts in (frequencies, sums))
    lanes_log = _lanes_log(sum(choice.bits for choice in chosen), len(f))
    coded = rans.encode(f, c, 1 << lanes_log)
    described = descriptions.to_bytes()
    head = [bytes([lanes_log]), *(_varint(n) for n in (len(described), len(coded.words), len(groups)))]
    states, words = coded.states.astype("<u4").tobytes(), coded.words.astype("<u2").tobytes()
    return b"".join([*head, described, states, words, escapes.to_bytes()])


def decode(data: bytes, counts: Sequence[int]) -> list[npt.NDArray[np.int32]]:
    """Decode a stream.

    Args:
        data: From ``encode``.
        counts: Number of integers of each group.

    Returns:
        The groups, int32.

    Raises:
        CompressionError: The stream is damaged, or does not have groups of these numbers.
    """
    stream = _read(data, len(counts))
    coded_counts = [0 if t.kind == tables.CONSTANT else n for t, n in zip(stream.tables, counts, strict=True)]
    lanes = len(stream.coded.states)
    if sum(coded_counts) > lanes << _ROWS_LOG:
        raise CompressionError(
            f"an entropy-coded stream has {lanes} lanes for {sum(coded_counts)} symbols; allowed: at most "
            f"{1 << _ROWS_LOG} symbols a lane"
        )
    used = [place for place, count in enumerate(coded_counts) if count]
    lookup = lru_cache(maxsize=_LOOKUPS)(lambda table: rans.lookup(table.frequencies))
    symbols = rans.decode(
        stream.coded, lambda group: lookup(stream.tables[used[group]]), [coded_counts[place] for place in used]
    )
    by_place, escapes = dict(zip(used, symbols, strict=True)), BitReader(stream.escapes)
    groups = [
        _integers(table, by_place[place], escapes) if place in by_place else np.full(count, table.low, np.int32)
        for place, (table, count) in enumerate(zip(stream.tables, counts, strict=True))
    ]
    escapes.finish()
    return groups


def coded_sizes(groups: Sequence[Integers]) -> list[float]:
    """Return the bits that each group takes in a stream: its table, its symbols and its escapes.

    Args:
        groups: See ``encode``.
    """
    return [choice.bits for choice in choose_tables(groups)]


@dataclass(frozen=True)
class _Stream:
    tables: list[Table]
    coded: rans.Coded
    escapes: bytes


def _read(data: bytes, groups: int) -> _Stream:
    """Split a stream into its parts, each within the bytes that there are."""
    if not data or data[0] > _MAX_LANES_LOG:
        raise CompressionError(
            f"an entropy-coded stream starts with {data[:1]!r}; allowed: a byte of at most {_MAX_LANES_LOG}"
        )
    position, numbers = 1, []
    for _ in range(3):
        number, position = _read_varint(data, position)
        numbers.append(number)
    described, words, claimed = numbers
    if claimed != groups:
        raise CompressionError(f"an entropy-coded stream has {claimed} groups; allowed: {groups}, as its table says")
    ends = np.cumsum([position, described, _STATE_BYTES << data[0], _WORD_BYTES * words]).tolist()
    if ends[-1] > len(data):
        raise CompressionError(f"an entropy-coded stream claims {ends[-1]} bytes, but has {len(data)}; allowed: both")
    descriptions, recent = BitReader(data[ends[0] : ends[1]]), tables.Recent()
    read = [tables.read_table(descriptions, recent) for _ in range(groups)]
    descriptions.finish()
    states = np.frombuffer(data[ends[1] : ends[2]], "<u4").astype(np.uint32)
    return _Stream(read, rans.Coded(states, np.frombuffer(data[ends[2] : ends[3]], "<u2")), data[ends[3] :])


def _integers(table: Table, symbols: npt.NDArray[np.uint16], escapes: BitReader) -> npt.NDArray[np.int32]:
    integers = (symbols.astype(np.int64) + table.low).astype(np.int32)
    for place in (symbols == table.escape).nonzero()[0].tolist():
        integers[place] = escapes.read_integer()
    return integers


def _lanes_log(bits: float, symbols: int) -> int:
    """Return log2 of the number of lanes.

    Their states take at most 0.4 % of the stream, unless more lanes are needed for ``_ROWS_LOG``.
    """
    lanes = min(int(bits / 8 * _STATES_SHARE / _STATE_BYTES), symbols // 2, 4096)
    needed = max(symbols - 1, 0) >> _ROWS_LOG
    return max(0, lanes.bit_length() - 1, needed.bit_length())


def _varint(number: int) -> bytes:
    groups = [number & 127]
    while number := number >> 7:
        groups[-1] |= 128
        groups.append(number & 127)
    return bytes(groups)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    number = shift = 0
    while position < len(data) and shift < 63:
        byte = data[position]
        number, position, shift = number | (byte & 127) << shift, position + 1, shift + 7
        if byte < 128:
            return number, position
    raise CompressionError("an entropy-coded stream ends in a number, or has one of too many bytes; allowed: 9 bytes")
