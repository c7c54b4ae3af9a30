"""Convert the integers of a record to groups and blocks, which the entropy coder codes, and back.

The groups of a file, in this order. Groups without integers are left out.

    exponents      of the layers: the base of an ``int`` layer's scales, the largest exponent of a ``minifloat`` layer,
                   the steps of a ``stepped`` layer; each minus the one before it
    terms          exponents of the term factors of ``int`` layers
    for each layer
        scales     exponents of the scales of an ``int`` layer, minus the base
        integers   of a ``minifloat`` layer, two groups: see ``_minifloat_groups``
    steps          of the vectors, which are the coded biases of the layers, the weights and then the biases of the
                   batch normalizations; each minus the one before it
    bases          of the vectors; each minus the one before it
    vectors        a group for each vector: its integers minus its base

The integers of every ``int`` and ``stepped`` layer are a block, (terms, rows, columns). The terms are the terms or taps
of a tensor of 4 axes, else 1. The rows are axis 0, and the columns all other axes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from basis.errors import CompressionError
from pipeline.artifact.batchnorm import NormalizationRecord
from pipeline.artifact.header import LayerEntry, Table
from pipeline.artifact.record import LayerRecord, NetworkRecord
from quant.formats import IntFormat, QuantizedTensor
from quant.grid import MAX_EXPONENT, MIN_EXPONENT, grid_exponents, grid_values
from quant.minifloat import EXPONENT_BITS, MinifloatFormat, MinifloatTensor
from quant.schemes import StoredTensor
from quant.stepped import SteppedTensor

Integers = NDArray[np.int32]

EXPONENTS, TERMS, INTEGERS, SCALES, VECTORS = "exponents", "terms", "integers", "scales", "vectors"


@dataclass(frozen=True)
class Group:
    """The place of a group.

    Attributes:
        kind: The kind of its integers.
        count: The number of its integers.
        layer: Name of the layer of its integers; empty for those of several layers.
    """

    kind: str
    count: int
    layer: str = ""


@dataclass(frozen=True)
class Block:
    """The place of a block.

    Attributes:
        layer: Name of the layer of its integers.
        shape: (terms, rows, columns).
    """

    layer: str
    shape: tuple[int, int, int]


def layout(table: Table) -> list[Group]:
    """Return the groups of a file, without those that have no integers."""
    layers, normalizations = table.layers, table.normalizations
    groups = [Group(EXPONENTS, sum(_exponent_count(layer) for layer in layers))]
    groups.append(Group(TERMS, sum(_term_count(layer) for layer in layers if layer.scheme == "int" and layer.terms)))
    for layer in layers:
        groups += _layer_layout(layer)
    vectors = [layer.shape[0] for layer in layers if layer.bias] + [each.channels for each in normalizations] * 2
    groups += [Group(VECTORS, count) for count in (len(vectors), len(vectors), *vectors)]
    return [group for group in groups if group.count]


def block_layout(table: Table) -> list[Block]:
    """Return the blocks of a file."""
    found = []
    for layer in (each for each in table.layers if each.scheme != "minifloat"):
        terms, rows = _term_count(layer), layer.shape[0]
        found.append(Block(layer.name, (terms, rows, math.prod(layer.shape) // (terms * rows))))
    return found


def claims(table: Table) -> tuple[int, int]:
    """Return lower bounds of the numbers of integers, and of groups and terms of blocks, in constant memory."""
    integers = sum(math.prod(layer.shape) for layer in table.layers)
    integers += 2 * sum(each.channels for each in table.normalizations)
    groups = sum(1 if layer.scheme == "minifloat" else _term_count(layer) for layer in table.layers)
    return integers, groups + 2 * len(table.normalizations)


def _layer_layout(layer: LayerEntry) -> Iterator[Group]:
    if layer.scheme == "minifloat":
        yield from [Group(INTEGERS, math.prod(layer.shape), layer.name)] * 2
    elif layer.scheme == "int":
        yield Group(SCALES, layer.shape[0], layer.name)


def _term_count(layer: LayerEntry) -> int:
    return math.prod(layer.shape[2:]) if len(layer.shape) == 4 else 1


def _exponent_count(layer: LayerEntry) -> int:
    return _term_count(layer) if layer.scheme == "stepped" and layer.terms else 1


def groups_of(record: NetworkRecord) -> list[Integers]:
    """Return the integers of all groups in ``layout``."""
    values = [layer.values for layer in record.layers]
    groups = [_differences([each for tensor in values for each in _exponents(tensor)]), _all_terms(values)]
    for layer in record.layers:
        groups += _layer_groups(layer.values)
    vectors = [layer.bias for layer in record.layers if layer.bias is not None]
    vectors += [each.weight for each in record.normalizations] + [each.bias for each in record.normalizations]
    integers = [_numbers(vector.integers) for vector in vectors]
    bases = [_base(each) for each in integers]
    groups += [_differences([int(vector.exponents) for vector in vectors]), _differences(bases)]
    groups += [each - np.int32(base) for each, base in zip(integers, bases, strict=True)]
    return [group for group in groups if len(group)]


def _exponents(values: StoredTensor) -> list[int]:
    if isinstance(values, QuantizedTensor):
        return [_base(_scale_exponents(values))]
    if isinstance(values, MinifloatTensor):
        return [int(_minifloat_exponents(values).max())]
    exponents: list[int] = values.exponents.flatten().tolist()
    return exponents


def _all_terms(values: Sequence[StoredTensor]) -> Integers:
    terms = [_numbers(each.terms) for each in values if isinstance(each, QuantizedTensor) and each.terms is not None]
    return np.concatenate([np.empty(0, np.int32), *terms])


def _layer_groups(values: StoredTensor) -> list[Integers]:
    if isinstance(values, QuantizedTensor):
        exponents = _scale_exponents(values)
        return [exponents - np.int32(_base(exponents))]
    return _minifloat_groups(values) if isinstance(values, MinifloatTensor) else []


def blocks_of(record: NetworkRecord) -> list[Integers]:
    """Return the integers of all blocks in ``block_layout``, (terms, rows, columns)."""
    return [block_of(each.values.integers) for each in record.layers if not isinstance(each.values, MinifloatTensor)]


def block_of(integers: torch.Tensor) -> Integers:
    """Return the integers of a layer as a block."""
    terms = math.prod(integers.shape[2:]) if integers.ndim == 4 else 1
    return np.ascontiguousarray(integers.reshape(len(integers), -1, terms).numpy().transpose(2, 0, 1), dtype=np.int32)


def _minifloat_groups(values: MinifloatTensor) -> list[Integers]:
    """Return two groups: s (1 + E - e) for sign s, exponent e, largest exponent E; and the mantissas, centred."""
    patterns, bits = _numbers(values.integers), values.format.bits
    exponents = _minifloat_exponents(values)
    distances = 1 + exponents.max() - exponents
    mantissas = (patterns & (2**bits - 1)) - 2 ** (bits - 1)
    return [np.where(patterns < 0, -distances, distances), mantissas]


def _minifloat_exponents(values: MinifloatTensor) -> Integers:
    exponents: Integers = (_numbers(values.integers) >> values.format.bits) & (2**EXPONENT_BITS - 1)
    return exponents


def _scale_exponents(values: QuantizedTensor) -> Integers:
    return _numbers(grid_exponents(values.scale))


def _numbers(values: torch.Tensor) -> Integers:
    return values.flatten().numpy().astype(np.int32)


def _base(values: Integers) -> int:
    """Return the lower median."""
    return int(np.partition(values, (len(values) - 1) // 2)[(len(values) - 1) // 2])


def _differences(values: Sequence[int]) -> Integers:
    """Return each value minus the one before it, the first minus 0."""
    whole = np.array([0, *values], np.int32)
    return whole[1:] - whole[:-1]


class GroupReader:
    """Rebuild layers, biases and normalizations from decoded groups and blocks, in the order of their layouts.

    Args:
        table: The table of the file.
        groups: The integers of the groups.
        blocks: The integers of the blocks.

    Raises:
        CompressionError: An integer is outside its range; by the constructor and the methods.
    """

    def __init__(self, table: Table, groups: Sequence[Integers], blocks: Sequence[Integers]) -> None:
        self._table, self._groups, self._blocks = table, iter(groups), iter(blocks)

    def records(self) -> tuple[tuple[LayerRecord, ...], tuple[NormalizationRecord, ...]]:
        """Return the layers and the normalizations of the table."""
        table = self._table
        exponents = iter(self._sums(sum(_exponent_count(layer) for layer in table.layers)))
        with_terms = [layer for layer in table.layers if layer.scheme == "int" and layer.terms]
        terms = iter(next(self._groups).tolist() if with_terms else [])
        values = [self._values(layer, exponents, terms) for layer in table.layers]
        biased = [layer for layer in table.layers if layer.bias]
        vectors = iter(self._vectors(len(biased) + 2 * len(table.normalizations)))
        layers = [
            LayerRecord(
                entry.name,
                tensor,
                entry.basis,
                entry.order,
                entry.kernel,
                next(vectors) if entry.bias else None,
                entry.named_tensor,
            )
            for entry, tensor in zip(table.layers, values, strict=True)
        ]
        weights = [next(vectors) for _ in table.normalizations]
        normalizations = [
            NormalizationRecord(entry.name, weight, next(vectors))
            for entry, weight in zip(table.normalizations, weights, strict=True)
        ]
        return tuple(layers), tuple(normalizations)

    def _values(self, layer: LayerEntry, exponents: Iterator[int], terms: Iterator[int]) -> StoredTensor:
        try:
            if layer.scheme == "minifloat":
                return self._minifloats(layer, next(exponents))
            integers = np.ascontiguousarray(next(self._blocks).transpose(1, 2, 0)).reshape(layer.shape)
            if layer.scheme == "stepped":
                steps = [next(exponents) for _ in range(_exponent_count(layer))]
                exponents_of_terms = _in_grid(steps).reshape(layer.shape[2:] if layer.terms else ())
                return SteppedTensor(torch.from_numpy(integers), exponents_of_terms)
            return self._quantized(layer, integers, next(exponents), terms)
        except CompressionError as error:
            raise CompressionError(f"its layer {layer.name!r} is damaged: {error}") from None

    def _quantized(self, layer: LayerEntry, integers: Integers, base: int, terms: Iterator[int]) -> QuantizedTensor:
        format = IntFormat(_bits(layer))
        _check_range("integers", integers, format.qmin, format.qmax)
        scale = grid_values(_in_grid(base + next(self._groups).astype(np.int64)))
        factors = None
        if layer.terms:
            found = np.array([next(terms) for _ in range(_term_count(layer))])
            _check_range("term exponents", found, -127, 127)
            factors = torch.from_numpy(found.astype(np.int8)).reshape(layer.shape[2:])
        return QuantizedTensor(torch.from_numpy(integers.astype(np.int8)), scale, format, factors)

    def _minifloats(self, layer: LayerEntry, largest: int) -> MinifloatTensor:
        bits, (signed, mantissas) = _bits(layer), (next(self._groups), next(self._groups))
        distances = np.abs(signed.astype(np.int64))
        _check_range("largest exponents", np.array([largest]), 0, 2**EXPONENT_BITS - 1)
        _check_range("distances of exponents", distances, 1, 1 + largest)
        _check_range("mantissas", mantissas, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        patterns = ((1 + largest - distances) << bits) + mantissas + 2 ** (bits - 1)
        patterns -= np.where(signed < 0, 1 << (bits + EXPONENT_BITS), 0)
        return MinifloatTensor(torch.from_numpy(patterns.astype(np.int16)).reshape(layer.shape), MinifloatFormat(bits))

    def _vectors(self, count: int) -> list[SteppedTensor]:
        steps, bases = self._sums(count), self._sums(count)
        found = []
        for step, base in zip(steps, bases, strict=True):
            integers = base + next(self._groups).astype(np.int64)
            _check_range("integers of a vector", integers, -(2**31), 2**31 - 1)
            found.append(SteppedTensor(torch.from_numpy(integers.astype(np.int32)), _in_grid([step])[0]))
        return found

    def _sums(self, count: int) -> list[int]:
        sums: list[int] = np.cumsum(next(self._groups), dtype=np.int64).tolist() if count else []
        return sums


def _bits(layer: LayerEntry) -> int:
    assert layer.bits is not None  # checked with the table
    return layer.bits


def _in_grid(exponents: Sequence[int] | NDArray[np.int64]) -> torch.Tensor:
    values = np.asarray(exponents, dtype=np.int64)
    _check_range("exponents", values, MIN_EXPONENT, MAX_EXPONENT)
    return torch.from_numpy(values.astype(np.int16))


def _check_range(what: str, values: NDArray[np.integer], low: int, high: int) -> None:
    first, last = int(values.min()), int(values.max())
    if first < low or last > high:
        raise CompressionError(f"{what} in {first}..{last}; allowed: {low}..{high}")
