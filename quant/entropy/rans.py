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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError

PRECISION: Final = 14
"""Frequencies of a table sum to 2^14."""
TOTAL: Final = 1 << PRECISION
_LOW: Final = 1 << 16

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
    """A table for decoding.

    Attributes:
        symbols: Symbol of each s, (2^14,), uint16.
        steps: ``f 2^14 + s - c`` of each s, (2^14,), uint32; f = 2^14 does not occur.
    """

    symbols: npt.NDArray[np.uint16]
    steps: npt.NDArray[np.uint32]


def lookup(frequencies: Integers) -> Lookup:
    """Return the decoding table of frequencies that sum to 2^14, each below 2^14."""
    symbols = np.repeat(np.arange(len(frequencies), dtype=np.uint16), frequencies)
    sums = np.cumsum(frequencies) - frequencies
    steps = (frequencies[symbols] << PRECISION) + np.arange(TOTAL) - sums[symbols]
    return Lookup(symbols, steps.astype(np.uint32))


def decode(coded: Coded, lookup_of: Callable[[int], Lookup], counts: list[int]) -> list[npt.NDArray[np.uint16]]:
    """Decode symbols.

    Args:
        coded: The states and words.
        lookup_of: Returns the table of a group, by its number; called once for each group.
        counts: Number of symbols of each group; groups follow one another.

    Returns:
        The symbols of each group.

    Raises:
        CompressionError: The words do not match the symbols.
    """
    lanes, total = len(coded.states), sum(counts)
    ends = np.cumsum(counts)
    found, x, position = np.empty(total, np.uint16), coded.states.copy(), 0
    words = coded.words.astype(np.uint32)
    group, table = -1, Lookup(np.empty(0, np.uint16), np.empty(0, np.uint32))
    for start in range(0, total, lanes):
        stop = min(start + lanes, total)
        row = x[: stop - start]
        steps = np.empty(len(row), np.uint32)
        slots = row & np.uint32(TOTAL - 1)
        at = start
        while at < stop:  # one piece of a row for each group in it, nearly always the whole row
            if group < 0 or ends[group] <= at:
                group += 1
                table = lookup_of(group)
            end = min(stop, int(ends[group]))
            piece = slots[at - start : end - start]
            found[at:end] = table.symbols[piece]
            steps[at - start : end - start] = table.steps[piece]
            at = end
        row = (steps >> np.uint32(PRECISION)) * (row >> np.uint32(PRECISION)) + (steps & np.uint32(TOTAL - 1))
        (empty,) = (row < _LOW).nonzero()
        if position + len(empty) > len(words):
            raise CompressionError("an entropy-coded stream has too few words; allowed: as many as its symbols need")
        row[empty] = (row[empty] << np.uint32(16)) | words[position : position + len(empty)]
        position += len(empty)
        x[: len(row)] = row
    if position != len(words) or bool((x != _LOW).any()):
        raise CompressionError("an entropy-coded stream does not end as it must; allowed: the words as written")
    return np.split(found, ends[:-1]) if counts else []
