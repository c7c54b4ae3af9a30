"""Encode groups and blocks of integers to a stream; see the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quant.entropy import rans, tables
from quant.entropy.bits import BitWriter, varint
from quant.entropy.plan import Plan, block_bits, make_plan
from quant.entropy.tables import Table

Integers = npt.NDArray[Any]

_STATES_SHARE: Final = 0.002
"""Largest share of a stream that the states of the lanes take."""
_STATE_BYTES: Final = 4


def encode(groups: Sequence[Integers], blocks: Sequence[Integers] = ()) -> bytes:
    """Encode groups and blocks of integers.

    Args:
        groups: One-dimensional arrays of integers in the range of int32; a group has integers of one statistics.
        blocks: The integers of layers, (terms, rows, columns): terms or taps, output channels, input channels.

    Returns:
        The stream; equal groups and blocks give equal streams.

    Raises:
        CompressionError: An array has other axes, or integers that do not fit int32.
    """
    return encode_plan(make_plan(groups, blocks))


def encode_plan(plan: Plan) -> bytes:
    """Encode the groups and blocks of a plan; see ``encode``."""
    descriptions, escapes, symbols = BitWriter(), BitWriter(), _Symbols()
    for each in plan.classes:
        descriptions.write(each is not None, 1)
    for choice in (*plan.choices, *plan.tables):
        choice.write(descriptions)
    for group, choice in zip(plan.groups, plan.choices, strict=True):
        symbols.add([choice.table], np.zeros(len(group), np.uint8), group, escapes)
    class_tables = [choice.table for choice in plan.tables]
    for block, classes in zip(plan.blocks, plan.classes, strict=True):
        if classes is not None:
            symbols.add(class_tables, classes.of_all(len(class_tables)).ravel(), block.ravel(), escapes)
    f, c = symbols.frequencies_and_sums()
    lanes_log = _lanes_log(plan.bits, len(f))
    coded = rans.encode(f, c, 1 << lanes_log)
    described = descriptions.to_bytes()
    numbers = (len(described), len(coded.words), len(plan.groups), len(class_tables))
    states, words = coded.states.astype("<u4").tobytes(), coded.words.astype("<u2").tobytes()
    return b"".join([bytes([lanes_log]), *map(varint, numbers), described, states, words, escapes.to_bytes()])


@dataclass(frozen=True)
class BlockBits:
    """The bits of a block in a stream.

    Attributes:
        terms: Bits of the integers of each term, with its share of the descriptions of tables.
        offsets: Bits of the bases and offsets of the block's classes.
    """

    terms: list[float]
    offsets: float = 0.0


def coded_sizes(groups: Sequence[Integers], blocks: Sequence[Integers] = ()) -> tuple[list[float], list[BlockBits]]:
    """Return the bits that each group and each block takes in a stream.

    The tables of classes are shared: each block has a share of them by its number of integers.

    Args:
        groups: See ``encode``.
        blocks: See ``encode``.
    """
    return planned_sizes(make_plan(groups, blocks))


def planned_sizes(plan: Plan) -> tuple[list[float], list[BlockBits]]:
    """Return the bits of the groups and blocks of a plan; see ``coded_sizes``."""
    groups, blocks = plan.groups[: plan.given], plan.blocks
    by_group = [choice.bits for choice in plan.choices]
    with_classes = sum(block.size for block, each in zip(blocks, plan.classes, strict=True) if each is not None)
    shared = plan.choices[len(groups) : len(groups) + 3] if with_classes else []
    described = sum(choice.described_bits() for choice in (*shared, *plan.tables))
    terms = iter(by_group[len(groups) + (3 if with_classes else 0) :])
    found = []
    for place, (block, classes) in enumerate(zip(blocks, plan.classes, strict=True)):
        if classes is None:
            found.append(BlockBits([next(terms) for _ in block]))
        else:
            *own, offsets = block_bits(plan, place)
            share = described * block.size / with_classes / len(own)
            found.append(BlockBits([bits + share for bits in own], offsets))
    return by_group[: len(groups)], found


class _Symbols:
    """Collects the frequencies of symbols, and the sums of those before them."""

    def __init__(self) -> None:
        self._frequencies, self._sums = [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]

    def add(
        self, chosen: Sequence[Table], which: npt.NDArray[np.uint8], integers: Integers, escapes: BitWriter
    ) -> None:
        """Add integers, whose tables are ``chosen[which]``; escaped ones are written to ``escapes``."""
        if not len(integers):
            return
        low, high = int(integers.min()), int(integers.max())
        if len(chosen) > 1 or high - low < len(integers):
            # Every integer of every table once, and then a lookup.
            values = np.arange(low, high + 1)
            prepared = [np.stack(parts) for parts in zip(*(_coded(each, values) for each in chosen), strict=True)]
            f, c, escaped = (each[which, integers - low] for each in prepared)
        else:
            f, c, escaped = _coded(chosen[0], integers)
        for value in integers[escaped].tolist():
            escapes.write_integer(value)
        coded = f > 0
        self._frequencies.append(f[coded])
        self._sums.append(c[coded])

    def frequencies_and_sums(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        return np.concatenate(self._frequencies), np.concatenate(self._sums)


def _coded(table: Table, integers: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the frequencies and their sums, uint32, and which integers are escaped; frequencies of 0 for constants."""
    if table.kind == tables.CONSTANT:
        nothing = np.zeros(len(integers), np.uint32)
        return nothing, nothing, nothing > 0
    symbols, frequencies = table.symbols(integers), table.frequencies.astype(np.uint32)
    sums = np.cumsum(frequencies, dtype=np.uint32) - frequencies
    return frequencies[symbols], sums[symbols], symbols == table.escape


def _lanes_log(bits: float, symbols: int) -> int:
    """Return log2 of the number of lanes.

    Their states take at most 0.2 % of the stream, unless more lanes are needed for ``rans.ROWS_LOG``.
    """
    lanes = min(int(bits / 8 * _STATES_SHARE / _STATE_BYTES), symbols // 2, 4096)
    needed = max(symbols - 1, 0) >> rans.ROWS_LOG
    return max(0, lanes.bit_length() - 1, needed.bit_length())
