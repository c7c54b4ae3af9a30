"""Plan a stream: which groups it has, with which tables, and which blocks have classes. The encoder's part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from basis.errors import CompressionError
from quant.entropy.choice import Choice, Histogram, choose_tables, from_counts, histogram, prices
from quant.entropy.classes import LARGEST, Classes, choose_classes

Integers = npt.NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """The groups, tables and classes of a stream.

    Attributes:
        groups: All groups in the order of the stream: the given ones, those of the classes, and the terms of blocks
            without classes.
        choices: The table of each group.
        given: Number of the given groups.
        blocks: The blocks.
        classes: The classes of each block; None for a block without them.
        tables: The tables of the classes.
    """

    groups: list[Integers]
    choices: list[Choice]
    given: int
    blocks: list[Integers]
    classes: list[Classes | None]
    tables: list[Choice]

    @property
    def bits(self) -> float:
        """Return the bits of all integers and tables."""
        return sum(choice.bits for choice in (*self.choices, *self.tables))


def make_plan(groups: Sequence[Integers], blocks: Sequence[Integers]) -> Plan:
    """Choose classes for the blocks that gain by them, and the cheapest tables.

    Raises:
        CompressionError: A group or a block has other axes, or integers that do not fit int32.
    """
    for block in blocks:
        if block.ndim != 3 or not np.issubdtype(block.dtype, np.integer):
            raise CompressionError(
                f"entropy coding got a block of type {block.dtype} and shape {block.shape}; allowed: integers, 3 axes"
            )
    histograms = [histogram(group) for group in groups]
    by_term = [[histogram(term.ravel()) for term in block] for block in blocks]
    groups = [group.astype(np.int32, copy=False) for group in groups]
    blocks = [block.astype(np.int32, copy=False) for block in blocks]
    without = _plan(groups, histograms, blocks, by_term, [None] * len(blocks))
    chosen = [place for place, block in enumerate(blocks) if block.size > 0 and _largest(block) <= LARGEST]
    choices = iter(without.choices[len(groups) :])
    best, plain = without, [sum(next(choices).bits for _ in block) for block in blocks]
    for _ in range(2):  # the second time without the blocks that classes make larger
        if not chosen:
            break
        found = choose_classes([blocks[place] for place in chosen])
        classes: list[Classes | None] = [None] * len(blocks)
        for place, each in zip(chosen, found, strict=True):
            classes[place] = each
        plan = _plan(groups, histograms, blocks, by_term, classes)
        best = min(best, plan, key=lambda each: each.bits)
        sizes = {place: sum(block_bits(plan, place)) for place in chosen}
        kept = [place for place in chosen if sizes[place] < plain[place]]
        if kept == chosen:
            break
        chosen = kept
    return best


def block_bits(plan: Plan, place: int) -> list[float]:
    """Return the bits of each term of a block with classes, and then those of all its bases and offsets.

    The descriptions of tables are not in them, because all such blocks share these.

    Args:
        plan: The plan.
        place: Number of the block.
    """
    classes, block = plan.classes[place], plan.blocks[place]
    assert classes is not None
    tables = [choice.table for choice in plan.tables]
    by_class = np.array([prices(table, np.arange(-LARGEST, LARGEST + 1)) for table in tables])
    terms = by_class[classes.of_all(len(tables)), block + LARGEST].sum((1, 2))
    own = sum(
        float(prices(choice.table, part).sum())
        for choice, part in zip(plan.choices[plan.given :], _offsets(classes), strict=False)
    )
    return [*terms.tolist(), own]


def _plan(
    groups: Sequence[Integers],
    histograms: Sequence[Histogram],
    blocks: Sequence[Integers],
    by_term: Sequence[Sequence[Histogram]],
    classes: list[Classes | None],
) -> Plan:
    whole, counted = list(groups), list(histograms)
    with_classes = [(block, each) for block, each in zip(blocks, classes, strict=True) if each is not None]
    if with_classes:
        parts = [np.concatenate(all_of) for all_of in zip(*(_offsets(each) for _, each in with_classes), strict=True)]
        whole += parts
        counted += map(histogram, parts)
    for block, terms, each in zip(blocks, by_term, classes, strict=True):
        if each is None:
            whole += [term.ravel() for term in block]
            counted += terms
    class_histograms = _class_histograms(with_classes)
    choices = choose_tables([*counted, *class_histograms])
    return Plan(whole, choices[: len(whole)], len(groups), list(blocks), classes, choices[len(whole) :])


def _offsets(classes: Classes) -> tuple[Integers, Integers, Integers]:
    """Return the integers that describe the classes of a block: each base minus the one before it, and the offsets."""
    return np.diff(classes.bases, prepend=np.int32(0)), classes.rows, classes.columns


def _class_histograms(with_classes: Sequence[tuple[Integers, Classes]]) -> list[Histogram]:
    width = 2 * LARGEST + 1
    counts = np.zeros((256, width), np.int64)
    for block, each in with_classes:
        keys = each.of_all(256).astype(np.int64) * width + block + LARGEST
        counts += np.bincount(keys.ravel(), minlength=counts.size).reshape(counts.shape)
    (used,) = counts.sum(1).nonzero()
    return [from_counts(own, -LARGEST) for own in counts[: used[-1] + 1 if len(used) else 0]]


def _largest(block: Integers) -> int:
    return max(-int(block.min()), int(block.max()))
