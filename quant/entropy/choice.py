"""Choose the table of each group: the encoder's part, which may compute with floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError
from quant.entropy import tables
from quant.entropy.bits import BitWriter
from quant.entropy.tables import CONSTANT, MAX_MAGNITUDE, Table

Integers = npt.NDArray[Any]

_RATIOS: Final = range(45)
_CURVES: Final = range(25)
_ZEROS: Final = 64
_OUTLIERS: Final = 0.001
"""Share of the integers at either end that a second explicit table leaves to the escape."""
_INT32: Final = np.iinfo(np.int32)


@dataclass(frozen=True)
class Choice:
    """The table of a group.

    Attributes:
        table: The table.
        bits: Length of the description, the symbols and the escapes.
        rank: Rank of the table among the recent ones; None if it is described anew.
    """

    table: Table
    bits: float
    rank: int | None = None

    def described_bits(self) -> int:
        """Return the length of the description."""
        return self.table.description_bits() if self.rank is None else tables.repeat_bits()

    def write(self, bits: BitWriter) -> None:
        """Append the description."""
        if self.rank is None:
            self.table.write(bits)
        else:
            tables.write_repeat(bits, self.rank)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Distinct integers of a group, and how often each occurs.

    Its tables and their bits are cached, because plans with and without classes need the same ones.

    Attributes:
        values: int64, ascending.
        counts: int64, of the same length.
    """

    values: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    _bits: dict[Table, float] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def tables(self) -> list[Table]:
        """The tables that fit the group."""
        return _tables_for(self)

    def bits(self, table: Table) -> float:
        """Return the bits of the symbols and escapes of the group under a table; infinite for another constant."""
        if table not in self._bits:
            self._bits[table] = _data_bits(table, self)
        return self._bits[table]


def choose_tables(histograms: Sequence[Histogram]) -> list[Choice]:
    """Choose the cheapest table of each group, in order.

    In a second round, the groups that shared a table may use one that is fitted to all of them.
    """
    offers = [histogram.tables for histogram in histograms]
    first = _choose(histograms, offers)
    sharing: dict[Table, list[int]] = {}
    for place, choice in enumerate(first):
        sharing.setdefault(choice.table, []).append(place)
    for places in sharing.values():
        if len(places) > 1:
            common = _union([histograms[place] for place in places]).tables
            for place in places:
                offers[place] = offers[place] + common
    second = _choose(histograms, offers)
    return min(first, second, key=lambda choices: sum(choice.bits for choice in choices))


def _choose(histograms: Sequence[Histogram], offers: list[list[Table]]) -> list[Choice]:
    chosen, recent = [], tables.Recent()
    for histogram, offered in zip(histograms, offers, strict=True):
        options = [Choice(t, t.description_bits() + histogram.bits(t)) for t in offered]
        for rank, table in enumerate(recent.tables):
            options.append(Choice(table, tables.repeat_bits() + histogram.bits(table), rank))
        chosen.append(min(options, key=lambda choice: choice.bits))
        recent.use(chosen[-1].table)
    return chosen


def _union(histograms: list[Histogram]) -> Histogram:
    values = np.concatenate([histogram.values for histogram in histograms])
    distinct, places = np.unique(values, return_inverse=True)
    counts = np.bincount(places, np.concatenate([histogram.counts for histogram in histograms]), len(distinct))
    return Histogram(distinct, counts.astype(np.int64))


def histogram(group: Integers) -> Histogram:
    """Count the integers of a group.

    Raises:
        CompressionError: The group is not one-dimensional, or has integers that do not fit int32.
    """
    if group.ndim != 1 or not np.issubdtype(group.dtype, np.integer):
        raise CompressionError(
            f"entropy coding got an array of type {group.dtype} and shape {group.shape}; allowed: integers, one axis"
        )
    if not len(group):
        return Histogram(np.empty(0, np.int64), np.empty(0, np.int64))
    low, high = int(group.min()), int(group.max())
    if low < _INT32.min or high > _INT32.max:
        raise CompressionError(f"entropy coding got integers in {low}..{high}; allowed: those of 32 bits")
    if high - low > 4 * len(group) + 65536:
        return Histogram(*np.unique(group.astype(np.int64), return_counts=True))
    return from_counts(np.bincount(group.astype(np.int64) - low), low)


def from_counts(counts: Integers, low: int) -> Histogram:
    """Return the histogram of the integers ``low``, ``low + 1``, ... from the number of times that each occurs."""
    (present,) = counts.nonzero()
    return Histogram(present + low, counts[present])


def _tables_for(histogram: Histogram) -> list[Table]:
    values, counts = histogram.values, histogram.counts
    if len(values) <= 1:
        return [tables.constant(int(values[0]) if len(values) else 0)]
    below = counts.cumsum() / counts.sum()
    inner = (below > _OUTLIERS) & (below - counts / counts.sum() < 1 - _OUTLIERS)
    found = [_shape_for(histogram)]
    for kept in {len(values): slice(None), int(inner.sum()): inner}.values():
        inside, times = values[kept], counts[kept]
        if len(inside) and inside[-1] - inside[0] < tables.MAX_EXPLICIT:
            dense = np.zeros(int(inside[-1] - inside[0]) + 1, np.int64)
            dense[inside - inside[0]] = times
            found.append(tables.explicit_for(dense, int(inside[0])))
    return found


def _shape_for(histogram: Histogram) -> Table:
    """Return the shape with the fewest bits for the magnitudes, and the best chance of zero for it."""
    magnitudes = np.abs(histogram.values)
    inside = (magnitudes > 0) & (magnitudes <= MAX_MAGNITUDE)
    counts = np.bincount(magnitudes[inside], histogram.counts[inside], MAX_MAGNITUDE + 1)[1:]
    zeros, others = int(histogram.counts[magnitudes == 0].sum()), max(float(counts.sum()), 0.5)
    costs = _magnitude_costs()
    last = int(counts.nonzero()[0][-1]) + 1 if counts.any() else 1
    ratio, curve = divmod(int((costs[:, :last] @ counts[:last]).argmin()), len(_CURVES))
    odds = 4 * np.log2(max(zeros, 0.5) / others) + 32
    nearest = int(np.clip(round(odds), 0, _ZEROS - 1))
    return tables.shape(nearest, ratio, curve)


@cache
def _magnitude_costs() -> npt.NDArray[np.float64]:
    """Return the bits of each magnitude from 1 on under each shape, (ratios curves, MAX_MAGNITUDE); 30 outside it."""
    costs = np.full((len(_RATIOS) * len(_CURVES), MAX_MAGNITUDE), 30.0)
    for row, (ratio, curve) in enumerate((r, c) for r in _RATIOS for c in _CURVES):
        weights = tables.magnitude_weights(ratio, curve).astype(np.float64)
        costs[row, : len(weights)] = np.log2(weights.sum()) - np.log2(weights)
    return costs


def _data_bits(table: Table, histogram: Histogram) -> float:
    values, counts = histogram.values, histogram.counts
    if table.kind == CONSTANT and (len(values) > 1 or (len(values) == 1 and values[0] != table.low)):
        return float("inf")
    return float(counts @ prices(table, values))


def prices(table: Table, integers: Integers) -> npt.NDArray[np.float64]:
    """Return the bits of each integer under a table, with its escape: 0 for a constant."""
    if table.kind == CONSTANT:
        return np.zeros(len(integers))
    symbols = table.symbols(integers)
    found: npt.NDArray[np.float64] = table.symbol_bits[symbols]
    escaped = symbols == table.escape
    if escaped.any():
        found[escaped] += 6 + np.floor(np.log2(2 * np.abs(integers[escaped].astype(np.float64)) + 1))
    return found
