"""Choose classes for the integers of layers: the encoder's part, which may compute with floating point.

A *block* has the integers of one layer, (terms, rows, columns): its terms, output channels and input channels. How
large its integers are depends on all three, because some channels have larger weights than others. So each term has a
base, and each row and column an offset. Their sum is the class of an integer:

    class = base of the term + offset of the row + offset of the column

All blocks share the tables of the classes. From one class to the next the mean magnitude grows by half an octave. In
files of ResNet-20 of 0.02 and 0.04 MB the offsets take 0.9 and 1.0 bits for each channel (d59f595, 2026-11-28). A block
has classes only if they make it smaller.

The choice is a descent: the tables follow from the classes, and then each base and each offset becomes the one with the
fewest bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

MOST_CLASSES: Final = 64
"""Most tables of classes of a stream."""
LARGEST: Final = 127
"""Largest magnitude of a block with classes; larger integers differ too much in their scale to share tables."""
_PER_OCTAVE: Final = 2
_LOWEST: Final = -7 * _PER_OCTAVE
"""The lowest class, of a mean magnitude of 2^-7."""
_COUNT: Final = 14 * _PER_OCTAVE
"""Number of the classes that a choice starts from."""
_OFFSETS: Final = np.arange(-6, 7)
_BASES: Final = np.arange(-2, 3)
"""Changes of a base in one round."""
_ROUNDS: Final = 4
_PRIOR: Final = 2.0
"""Weight, in integers, of a geometric distribution in the table of each class."""
_OFFSET_PRIOR: Final = 0.3


@dataclass(frozen=True)
class Classes:
    """The classes of one block.

    Attributes:
        bases: int32, (terms,).
        rows: Offsets, int32, (rows,).
        columns: Offsets, int32, (columns,).
    """

    bases: Integers
    rows: Integers
    columns: Integers

    def of_all(self, count: int) -> npt.NDArray[np.uint8]:
        """Return the class of every integer, (terms, rows, columns), each limited to 0..count - 1."""
        return np.stack([self.of_term(term, count) for term in range(len(self.bases))])

    def of_term(self, term: int, count: int) -> npt.NDArray[np.uint8]:
        """Return the class of every integer of a term, (rows, columns), each limited to 0..count - 1."""
        sums = self.rows[:, None] + self.columns + self.bases[term]
        limited: npt.NDArray[np.uint8] = sums.clip(0, count - 1).astype(np.uint8)
        return limited


def choose_classes(blocks: Sequence[Integers]) -> list[Classes]:
    """Choose the classes of blocks that share their tables.

    Args:
        blocks: Integers of magnitudes of at most ``LARGEST``, (terms, rows, columns).

    Returns:
        The classes of each block. Sums may be below 0, which is class 0; the highest is below ``MOST_CLASSES``.
    """
    descents = [_Descent(block) for block in blocks]
    for _ in range(_ROUNDS):
        costs = _costs(descents)
        row_bits = _offset_bits([descent.rows for descent in descents])
        column_bits = _offset_bits([descent.columns for descent in descents])
        for descent in descents:
            descent.improve(costs, row_bits, column_bits)
    # Numbers start from the lowest class in use.
    lowest = min((max(each.lowest(), 0) for each in descents), default=0)
    return [
        Classes(*(part.astype(np.int32) for part in (descent.bases - lowest, descent.rows, descent.columns)))
        for descent in descents
    ]


class _Descent:
    """The classes of a block while they are chosen; numbers are from 0 for ``_LOWEST``."""

    def __init__(self, block: Integers) -> None:
        self._magnitudes = np.abs(block.astype(np.int64))
        self._width = int(self._magnitudes.max(initial=0)) + 1
        means = np.maximum(self._magnitudes.mean((1, 2)), 2.0 ** (_LOWEST / _PER_OCTAVE))
        self.bases = np.clip(np.round(_PER_OCTAVE * np.log2(means)).astype(np.int64) - _LOWEST, 0, _COUNT - 1)
        self.rows = np.zeros(block.shape[1], np.int64)
        self.columns = np.zeros(block.shape[2], np.int64)

    def classes(self) -> Integers:
        """Return the class of every integer, limited to those that there are."""
        sums: Integers = self.bases[:, None, None] + (self.rows[:, None] + self.columns)
        return sums.clip(0, _COUNT - 1)

    def lowest(self) -> int:
        """Return the lowest class of an integer, before it is limited."""
        return int(self.bases.min() + self.rows.min() + self.columns.min())

    def histogram(self) -> Floats:
        """Return how often each magnitude has each class, (classes, LARGEST + 1)."""
        counts = np.zeros((_COUNT, LARGEST + 1))
        counts[:, : self._width] = self._counted(np.zeros(1, np.int64), self.classes(), _COUNT)[0]
        return counts

    def improve(self, costs: Floats, row_bits: Floats, column_bits: Floats) -> None:
        """Set bases, rows and columns, in this order, to the best for given tables.

        Args:
            costs: Bits of each magnitude in each class, (classes, LARGEST + 1).
            row_bits: Bits of each offset of a row, as ``_OFFSETS``.
            column_bits: The same for columns.
        """
        terms, rows, columns = (np.arange(n) for n in self._magnitudes.shape)
        offsets = self.rows[:, None] + self.columns
        bits = self._bits(terms[:, None, None], offsets[None], _BASES, costs, starts=self.bases)
        self.bases = np.clip(self.bases + _BASES[_least(bits)], 0, _COUNT - 1)
        others = self.bases[:, None, None] + self.columns
        self.rows = _OFFSETS[_least(self._bits(rows[:, None], others, _OFFSETS, costs) + row_bits)]
        others = self.bases[:, None, None] + self.rows[:, None]
        self.columns = _OFFSETS[_least(self._bits(columns, others, _OFFSETS, costs) + column_bits)]

    def _bits(
        self, owners: Integers, others: Integers, choices: Integers, costs: Floats, starts: Integers | None = None
    ) -> Floats:
        """Return the bits of the integers of each owner for each choice, (owners, choices).

        Args:
            owners: Number of the term, row or column of each integer.
            others: Sum of the parts of the class that are not the owner's.
            choices: The owner's part; a change of ``starts`` if there are any.
            costs: See ``improve``.
            starts: The owner's part now.
        """
        low = int(others.min())
        counts = self._counted(owners, others - low, int(others.max()) - low + 1)
        places = np.arange(counts.shape[1]) + low
        if starts is None:
            tables = costs[(places + choices[:, None]).clip(0, _COUNT - 1), : self._width]
            return counts.reshape(len(counts), -1) @ tables.reshape(len(choices), -1).T
        classes = (places + (choices[:, None] + starts[:, None, None])).clip(0, _COUNT - 1)
        bits: Floats = np.einsum("okm,ockm->oc", counts, costs[classes, : self._width])
        return bits

    def _counted(self, owners: Integers, classes: Integers, count: int) -> Floats:
        """Count the magnitudes of each owner and class, (owners, count, magnitudes)."""
        number = int(owners.max()) + 1
        keys = (owners * count + classes) * self._width + self._magnitudes
        counts: Integers = np.bincount(keys.ravel(), minlength=number * count * self._width)
        return counts.reshape(number, count, self._width).astype(np.float64)


def _least(bits: Floats) -> Integers:
    """Return the place of the least value of each row, the first of equal ones.

    The last digits of sums depend on the machine, so values are rounded to a millionth before they are compared.
    """
    least: Integers = bits.round(6).argmin(1)
    return least


def _costs(descents: Sequence[_Descent]) -> Floats:
    """Return the bits of each magnitude in each class, with the sign, (classes, LARGEST + 1)."""
    counts = sum((descent.histogram() for descent in descents), np.zeros((_COUNT, LARGEST + 1)))
    means = 2.0 ** ((np.arange(_COUNT) + _LOWEST) / _PER_OCTAVE)[:, None]
    prior = (means / (1 + means)) ** np.arange(LARGEST + 1)
    counts += np.maximum(_PRIOR * prior / prior.sum(1, keepdims=True), 1e-9)
    costs: Floats = np.log2(counts.sum(1, keepdims=True)) - np.log2(counts)
    costs[:, 1:] += 1
    return costs


def _offset_bits(parts: Sequence[Integers]) -> Floats:
    """Return the bits of each offset in ``_OFFSETS``, by how often it occurs."""
    found = np.concatenate([np.empty(0, np.int64), *parts])
    counts = np.bincount(found - _OFFSETS[0], minlength=len(_OFFSETS)) + _OFFSET_PRIOR
    bits: Floats = np.log2(counts.sum()) - np.log2(counts)
    return bits
