"""Interleaved rANS: code symbols with static frequencies, many lanes at a time.

Lane ``i mod N`` codes symbol i. A lane is a state x of 32 bits, at least 2^16. With the frequency f of a symbol out of
M = 2^14 and the sum c of the frequencies of the symbols before it, the encoder works from the last symbol to the first:

    if x >= f 2^18:  write the low 16 bits of x as a word, x = x >> 16
    x = (x div f) M + (x mod f) + c

and the decoder, from the first symbol to the last, undoes it:

    s = x mod M;  the symbol is the one with c <= s < c + f
    x = f (x div M) + s - c
    if x < 2^16:     x = x 2^16 + next word

The words of the lanes of one row of N symbols follow one another in the order of the lanes. A lane starts, in the
encoder, at 2^16, so the decoder ends there: a check that costs nothing.

Source: Duda 2013, arXiv 1311.2540; interleaving, Giesen 2014, arXiv 1402.3392.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError

PRECISION: Final = 14
"""Frequencies of a table sum to 2^14."""
TOTAL: Final = 1 << PRECISION
ROWS_LOG: Final = 16
"""log2 of the most symbols of a lane: it bounds the time of decoding, which takes one step for a row of all lanes."""
_LOW: Final = 1 << 16
_FEW_LANES: Final = 32
"""Most lanes that are encoded symbol by symbol: up to there a row of numpy's takes longer than its symbols."""

Words = npt.NDArray[np.uint16]
States = npt.NDArray[np.uint32]
Integers = npt.NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """Coded symbols.

    Attributes:
        states: The lanes' states at the start of decoding, uint32, (lanes,).
        words: uint16, in the order of decoding.
    """

    states: States
    words: Words


def encode(frequencies: Integers, sums: Integers, lanes: int) -> Coded:
    """Encode symbols.

    Args:
        frequencies: f of each symbol, uint32, (symbols,), 1 to 2^14 - 1.
        sums: c of each symbol, uint32, (symbols,).
        lanes: N.
    """
    return (_encode_by_symbol if lanes <= _FEW_LANES else _encode_by_row)(frequencies, sums, lanes)


def _encode_by_symbol(frequencies: Integers, sums: Integers, lanes: int) -> Coded:
    states, words = [_LOW] * lanes, []
    lane = len(frequencies) % lanes
    for f, c in zip(reversed(frequencies.tolist()), reversed(sums.tolist()), strict=True):
        lane = (lane or lanes) - 1
        x = states[lane]
        if x >> (32 - PRECISION) >= f:
            words.append(x & 0xFFFF)
            x >>= 16
        states[lane] = ((x // f) << PRECISION) + x % f + c
    return Coded(np.array(states, np.uint32), np.array(words[::-1], np.uint16))


def _encode_by_row(frequencies: Integers, sums: Integers, lanes: int) -> Coded:
    states, rows = np.full(lanes, _LOW, np.uint32), []
    for start in range((len(frequencies) - 1) // lanes * lanes, -1, -lanes) if len(frequencies) else ():
        f, c = frequencies[start : start + lanes], sums[start : start + lanes]
        x = states[: len(f)]
        full = (x >> np.uint32(32 - PRECISION)) >= f
        rows.append(x[full].astype(np.uint16))
        x = np.where(full, x >> np.uint32(16), x)
        # The quotient of numbers below 2^32 and 2^14 is exact to its integer part in float64, and faster than divmod.
        quotient = (x / f.astype(np.float64)).astype(np.uint32)
        states[: len(f)] = (quotient << np.uint32(PRECISION)) + (x - quotient * f) + c
    words = np.concatenate(rows[::-1]) if rows else np.empty(0, np.uint16)
    return Coded(states, words)


@dataclass(frozen=True)
class Lookup:
    """One table for decoding, or several one after the other.

    Attributes:
        symbols: Symbol of each s, (tables 2^14,), uint16.
        steps: ``f 2^14 + s - c`` of each s, (tables 2^14,), uint32; f = 2^14 does not occur.
    """

    symbols: npt.NDArray[np.uint16]
    steps: npt.NDArray[np.uint32]


def lookup(frequencies: Integers) -> Lookup:
    """Return the decoding table of frequencies that sum to 2^14, each below 2^14."""
    symbols = np.repeat(np.arange(len(frequencies), dtype=np.uint16), frequencies)
    sums = np.cumsum(frequencies) - frequencies
    steps = (frequencies[symbols] << PRECISION) + np.arange(TOTAL) - sums[symbols]
    return Lookup(symbols, steps.astype(np.uint32))


def joined(lookups: Sequence[Lookup]) -> Lookup:
    """Return several tables, one or more, as one after the other."""
    return Lookup(np.concatenate([each.symbols for each in lookups]), np.concatenate([each.steps for each in lookups]))


class Decoder:
    """Decode the symbols of a stream in order, some at a time.

    Args:
        coded: The states and words.

    Raises:
        CompressionError: The words do not match the symbols; by ``take`` and ``finish``.
    """

    def __init__(self, coded: Coded) -> None:
        self._states, self._words = coded.states.copy(), coded.words.astype(np.uint32)
        self._symbol = self._word = 0

    def take(self, count: int, table: Lookup, starts: npt.NDArray[np.uint32] | None = None) -> npt.NDArray[np.uint16]:
        """Decode the next symbols.

        Args:
            count: Their number.
            table: One table, or several one after the other.
            starts: Start of each symbol's table in ``table``, (count,); None for a single table.

        Returns:
            The symbols, (count,).

        Raises:
            CompressionError: The lanes have too many symbols, or there are too few words.
        """
        lanes, found, at = len(self._states), np.empty(count, np.uint16), 0
        if self._symbol + count > lanes << ROWS_LOG:
            raise CompressionError(
                f"an entropy-coded stream has {lanes} lanes for {self._symbol + count} symbols or more; allowed: at "
                f"most {1 << ROWS_LOG} symbols a lane"
            )
        while at < count:
            lane = self._symbol % lanes
            row = self._states[lane : lane + count - at]
            piece = slice(at, at + len(row))
            slots = row & np.uint32(TOTAL - 1)
            if starts is not None:
                slots += starts[piece]
            found[piece], steps = table.symbols[slots], table.steps[slots]
            row[:] = (steps >> np.uint32(PRECISION)) * (row >> np.uint32(PRECISION)) + (steps & np.uint32(TOTAL - 1))
            self._refill(row)
            at += len(row)
            self._symbol += len(row)
        return found

    def _refill(self, row: States) -> None:
        """Append the next words to the states of a row of lanes that are below their range, in place."""
        (empty,) = (row < _LOW).nonzero()
        words = self._words[self._word : self._word + len(empty)]
        if len(words) < len(empty):
            raise CompressionError("an entropy-coded stream has too few words; allowed: as many as its symbols need")
        row[empty] = (row[empty] << np.uint32(16)) | words
        self._word += len(empty)

    def finish(self) -> None:
        """Check that all words are used and all states are as at the start of encoding.

        Raises:
            CompressionError: They are not.
        """
        if self._word != len(self._words) or bool((self._states != _LOW).any()):
            raise CompressionError("an entropy-coded stream does not end as it must; allowed: the words as written")
