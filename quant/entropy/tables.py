"""Frequency tables: four kinds, of which the cheapest codes each group of integers.

    kind  name       description in the stream                     integers
    0     constant   a signed integer                              all equal; nothing else is stored
    1     shape      p0: 6 bits, r: 6 bits, c: 5 bits              symmetric around 0, falling
    2     explicit   low: signed integer, count - 1: 12 bits,      ``count`` neighbouring integers from ``low`` on
                     then 6 bits for each integer
    3     repeat     rank: 3 bits                                  the table of an earlier group

Shape. The magnitude k >= 1 has the weight w_k for each sign, with

    w_1 = 2^24,   w_(k+1) = (w_k r_k) >> 16,   r_1 = 2^16 - POWERS[-r],   r_(k+1) = (r_k c') >> 16,

where ``POWERS[j]`` is ``2^16 2^(j / 4)`` as ``power`` computes it, and c' = 2^16 for c = 0, otherwise
``2^16 - POWERS[-2 c]``. With c' = 2^16 the distribution is geometric; smaller ones fall faster, like a Gaussian.
Magnitudes end before the first weight below 2^-16 of the sum of all weights before it, at the latest after 2,047. Zero
has the weight ``(sum of all others * POWERS[p0 - 32]) >> 16``, at least 1.

Explicit. A description of 0 means that the integer does not occur, and d >= 1 the weight ``POWERS[d - 63]``.

Repeat. The rank is the place of the table among the different tables before it, from 0 for the last used one.

Every table has one more symbol, the escape, after its integers, with the frequency 1: such an integer follows in the
bits of the escapes. Weights become frequencies by ``normalized``. All arithmetic is of integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError
from quant.entropy.bits import BitReader, BitWriter, integer_bits
from quant.entropy.rans import PRECISION, TOTAL

Integers = npt.NDArray[Any]

_KIND_BITS: Final = 2
CONSTANT, SHAPE, EXPLICIT, REPEAT = range(4)
_ZERO_BITS, _RATIO_BITS, _CURVE_BITS = 6, 6, 5
_COUNT_BITS, _LEVEL_BITS, _RANK_BITS = 12, 6, 3
MAX_MAGNITUDE: Final = 2047
RANKS: Final = 1 << _RANK_BITS
MAX_EXPLICIT: Final = 1 << _COUNT_BITS
_LEVELS: Final = (1 << _LEVEL_BITS) - 1
_QUARTERS: Final = (65536, 77936, 92682, 110218)  # 2^16 2^(k / 4), rounded


def power(quarters: int) -> int:
    """Return ``2^16 2^(quarters / 4)``, rounded down from the four constants above; 0 if it is below 1."""
    octaves, part = divmod(quarters, 4)
    return _QUARTERS[part] << octaves if octaves >= 0 else _QUARTERS[part] >> -octaves


@dataclass(frozen=True)
class Table:
    """Frequencies of neighbouring integers.

    Attributes:
        low: The first integer.
        kind: ``CONSTANT``, ``SHAPE`` or ``EXPLICIT``.
        description: The numbers of its description.
    """

    low: int
    kind: int
    description: tuple[int, ...]

    @property
    def frequencies(self) -> npt.NDArray[np.int64]:
        """Frequencies of the integers, then that of the escape: int64, (integers + 1,); 0 for absent integers.

        The sum is 2^14. There are none for a constant, which is ``low``.
        """
        return _frequencies(self.kind, self.description)

    @property
    def escape(self) -> int:
        """Number of the escape symbol."""
        return len(self.frequencies) - 1

    @property
    def symbol_bits(self) -> npt.NDArray[np.float64]:
        """Bits of each symbol, as ``frequencies``; those of absent integers have no meaning."""
        return _symbol_bits(self.kind, self.description)

    def write(self, bits: BitWriter) -> None:
        """Append the description."""
        bits.write(self.kind, _KIND_BITS)
        if self.kind == CONSTANT:
            bits.write_integer(self.low)
        elif self.kind == SHAPE:
            for value, width in zip(self.description, (_ZERO_BITS, _RATIO_BITS, _CURVE_BITS), strict=True):
                bits.write(value, width)
        else:
            bits.write_integer(self.low)
            bits.write(len(self.description) - 1, _COUNT_BITS)
            for level in self.description:
                bits.write(level, _LEVEL_BITS)

    def description_bits(self) -> int:
        """Return the length of the description in bits."""
        if self.kind == CONSTANT:
            return _KIND_BITS + integer_bits(self.low)
        if self.kind == SHAPE:
            return _KIND_BITS + _ZERO_BITS + _RATIO_BITS + _CURVE_BITS
        return _KIND_BITS + integer_bits(self.low) + _COUNT_BITS + _LEVEL_BITS * len(self.description)

    def symbols(self, integers: Integers) -> Integers:
        """Return the symbol of each integer, int64; the escape for integers outside the table."""
        places = _symbols(self.kind, self.description)
        # An index of -1, for smaller integers, is the last place: the escape.
        symbols: Integers = places[np.minimum(np.maximum(integers.astype(np.int64) - self.low, -1), len(places) - 1)]
        return symbols


def repeat_bits() -> int:
    """Return the length of the description of a repeated table in bits."""
    return _KIND_BITS + _RANK_BITS


def write_repeat(bits: BitWriter, rank: int) -> None:
    """Append the description of the table of a rank in ``Recent``."""
    bits.write(REPEAT, _KIND_BITS)
    bits.write(rank, _RANK_BITS)


class Recent:
    """The different tables that were used last, the latest first."""

    def __init__(self) -> None:
        self.tables: list[Table] = []

    def use(self, table: Table) -> None:
        """Move a table to the front."""
        self.tables = [table, *(other for other in self.tables if other != table)][:RANKS]


def read_table(bits: BitReader, recent: Recent) -> Table:
    """Read the description of a table, and move it to the front of the recent ones.

    Args:
        bits: The descriptions.
        recent: The tables of the groups before.

    Raises:
        CompressionError: The description is not valid.
    """
    table = _read_table(bits, recent)
    recent.use(table)
    return table


def _read_table(bits: BitReader, recent: Recent) -> Table:
    kind = bits.read(_KIND_BITS)
    if kind == CONSTANT:
        return constant(bits.read_integer())
    if kind == SHAPE:
        return shape(*(bits.read(width) for width in (_ZERO_BITS, _RATIO_BITS, _CURVE_BITS)))
    if kind == REPEAT:
        rank = bits.read(_RANK_BITS)
        if rank >= len(recent.tables):
            raise CompressionError(
                f"an entropy-coded stream repeats table {rank} of {len(recent.tables)}; allowed: one of those before"
            )
        return recent.tables[rank]
    low, count = bits.read_integer(), bits.read(_COUNT_BITS) + 1
    levels = tuple(bits.read(_LEVEL_BITS) for _ in range(count))
    if not any(levels) or low + count > 2**31:
        raise CompressionError("an entropy-coded stream has a table without integers of 32 bits; allowed: one or more")
    return explicit(low, levels)


def constant(value: int) -> Table:
    """Return the table of a single integer."""
    return Table(value, CONSTANT, (value,))


def shape(zero: int, ratio: int, curve: int) -> Table:
    """Return the symmetric table of three parameters; see the module."""
    return Table(-len(magnitude_weights(ratio, curve)), SHAPE, (zero, ratio, curve))


# A damaged stream may have very many tables, so only some are in memory.
@lru_cache(maxsize=1024)
def _frequencies(kind: int, description: tuple[int, ...]) -> npt.NDArray[np.int64]:
    if kind == CONSTANT:
        return np.empty(0, np.int64)
    if kind == EXPLICIT:
        return normalized(np.array([power(level - _LEVELS) if level else 0 for level in description], np.int64))
    zero, ratio, curve = description
    one_sided = magnitude_weights(ratio, curve)
    zero_weight = max(1, (2 * int(one_sided.sum()) * power(zero - 32)) >> 16)
    return normalized(np.concatenate([one_sided[::-1], [zero_weight], one_sided]))


@lru_cache(maxsize=1024)
def _symbols(kind: int, description: tuple[int, ...]) -> Integers:
    """Return the symbol of each integer of a table, and then the escape."""
    frequencies = _frequencies(kind, description)
    symbols: Integers = np.where(frequencies > 0, np.arange(len(frequencies)), len(frequencies) - 1)
    return symbols


@lru_cache(maxsize=1024)
def _symbol_bits(kind: int, description: tuple[int, ...]) -> npt.NDArray[np.float64]:
    bits: npt.NDArray[np.float64] = PRECISION - np.log2(np.maximum(_frequencies(kind, description), 1))
    return bits


@cache
def magnitude_weights(ratio: int, curve: int) -> npt.NDArray[np.int64]:
    """Return the weights of the magnitudes 1, 2, ... of a shape: int64."""
    weights: list[int] = []
    weight, total = 1 << 24, 0
    step, change = 65536 - power(-ratio), 65536 if curve == 0 else 65536 - power(-2 * curve)
    while weight and len(weights) < MAX_MAGNITUDE and weight << 16 >= total:
        weights.append(weight)
        total += weight
        weight, step = (weight * step) >> 16, (step * change) >> 16
    return np.array(weights, np.int64)


def explicit(low: int, levels: tuple[int, ...]) -> Table:
    """Return the table with the given levels of neighbouring integers; see the module."""
    return Table(low, EXPLICIT, levels)


def explicit_for(counts: Integers, low: int) -> Table:
    """Return the explicit table nearest to the counts of the integers from ``low`` on, the first and last not 0."""
    with np.errstate(divide="ignore"):
        levels = np.round(_LEVELS + 4 * np.log2(counts / counts.max()))
    levels = np.where(counts > 0, np.maximum(levels, 1), 0).astype(np.int64)
    return explicit(low, tuple(levels.tolist()))


def normalized(weights: Integers) -> npt.NDArray[np.int64]:
    """Return frequencies that sum to 2^14, the last of them 1 for the escape.

    Every positive weight w gets ``max(1, w (2^14 - 1 - n) div W)``, with n positive weights of the sum W; the first of
    the largest frequencies gets what is left.
    """
    weights = weights.astype(np.int64)
    positive = weights > 0
    room, whole = TOTAL - 1 - int(positive.sum()), int(weights.sum())
    frequencies = np.where(positive, np.maximum(1, weights * room // whole), 0)
    frequencies[np.argmax(frequencies)] += TOTAL - 1 - int(frequencies.sum())
    return np.append(frequencies, 1)
