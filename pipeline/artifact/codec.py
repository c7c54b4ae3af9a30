"""Convert a network's record to the sections of an artifact, and back.

    tensors.DTYPE          parameters and buffers that are not coded
    codes                  U8    one stream of ``quant.entropy`` with the groups and blocks of
                                 ``pipeline.artifact.groups``
    table                  U8    compressed JSON: the layers, normalizations and other tensors

Parts of a section follow each other without gaps, in the order of the table.
"""

import math
from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from basis.errors import CompressionError
from basis.families import BASES
from basis.parametric.families import FAMILIES
from pipeline.artifact.container import DTYPE_NAMES, DTYPES, Contents, bytes_of, join
from pipeline.artifact.groups import GroupReader, block_layout, blocks_of, claims, groups_of, layout
from pipeline.artifact.header import (
    FORMAT_VERSION,
    OBJECT,
    Header,
    Identity,
    LayerEntry,
    NormalizationEntry,
    Table,
    TensorEntry,
    default_names,
    pack_table,
    read_table,
)
from pipeline.artifact.record import LayerRecord, NetworkRecord
from pipeline.models.registry import builder_of
from quant import entropy
from quant.minifloat import MinifloatFormat
from quant.registry import SCHEMES
from quant.stepped import SteppedFormat, SteppedTensor

CODES, TENSORS, TABLE = "codes", "tensors", "table"

FREE_INTEGERS, INTEGERS_PER_BYTE = 1 << 22, 4096
"""Most integers of a file: ``FREE_INTEGERS`` and ``INTEGERS_PER_BYTE`` for each byte of the stream."""
FREE_GROUPS, GROUPS_PER_BYTE = 1 << 16, 2
"""Most groups and terms of blocks of a file: ``FREE_GROUPS`` and ``GROUPS_PER_BYTE`` for each byte of the stream."""


def plan_stream(record: NetworkRecord) -> entropy.Plan:
    """Choose the tables of a record's stream, which takes most of the time of ``serialize`` and of its account."""
    return entropy.make_plan(groups_of(record), blocks_of(record))


def serialize(record: NetworkRecord, identity: Identity, plan: entropy.Plan | None = None) -> bytes:
    """Return the bytes of an artifact; equal networks have equal bytes.

    Args:
        record: The network.
        identity: Its name, classes and input format.
        plan: Of the record, from ``plan_stream``; None makes it.

    Raises:
        CompressionError: A tensor has a type that safetensors cannot store, or the file would have more integers than
            a reader accepts in its bytes.
    """
    sections = _sections(record, plan)
    if CODES in sections:
        _check_claims(table_of(record), len(sections[CODES]))
    return join(_header(identity).model_dump_json(exclude_none=True), sections)


def file_size(record: NetworkRecord, identity: Identity) -> int:
    """Return the number of bytes of ``serialize``, also for a file with more integers than a reader accepts."""
    return len(join(_header(identity).model_dump_json(exclude_none=True), _sections(record)))


def _sections(record: NetworkRecord, plan: entropy.Plan | None = None) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in record.floats.items():
        parts[f"{TENSORS}.{_dtype_name(name, tensor)}"].append(tensor.contiguous().flatten())
    sections = {name: torch.cat(tensors) for name, tensors in parts.items()}
    plan = plan or plan_stream(record)
    if plan.groups or plan.blocks:
        sections[CODES] = _as_section(entropy.encode_plan(plan))
    sections[TABLE] = _as_section(pack_table(table_of(record)))
    return sections


def decode(contents: Contents) -> tuple[Table, NetworkRecord]:
    """Read the table and the tensors from the sections.

    Args:
        contents: The parts of the file.

    Returns:
        The table, and the record with its tensors.

    Raises:
        CompressionError: The sections do not match the table, or contain values that are not allowed.
    """
    if TABLE not in contents.sections:
        raise CompressionError(f"it has no section {TABLE!r}; allowed: one")
    table = read_table(bytes_of(contents.sections[TABLE]))
    for layer in table.layers:
        _check_layer(layer)
    reader = _Reader({name: values for name, values in contents.sections.items() if name not in (TABLE, CODES)})
    floats = {entry.name: _take_tensor(entry, reader) for entry in table.tensors}
    reader.finish()
    layers, normalizations = GroupReader(table, *_decode_stream(table, contents.sections.get(CODES))).records()
    return table, NetworkRecord(layers, floats, normalizations)


def table_of(record: NetworkRecord) -> Table:
    """Return the table of a record."""
    return Table(
        layers=tuple(map(_layer_entry, record.layers)),
        normalizations=tuple(
            NormalizationEntry(name=each.name, channels=len(each.weight.integers)) for each in record.normalizations
        ),
        tensors=tuple(
            TensorEntry(name=name, dtype=_dtype_name(name, tensor), shape=tuple(tensor.shape))
            for name, tensor in record.floats.items()
        ),
    )


def _as_section(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _header(identity: Identity) -> Header:
    builder, arguments = (OBJECT, {}) if identity.is_object else builder_of(identity.model, identity.classes)
    fields = {name: value for name, value in vars(identity).items() if name != "is_object"}
    if identity.class_names == default_names(identity.classes):
        fields = {**fields, "class_names": None}
    return Header(format_version=FORMAT_VERSION, builder=builder, arguments=arguments, **fields)


def _decode_stream(table: Table, codes: Tensor | None) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]]:
    """Decode the groups and blocks of the stream, after a check of the numbers of its integers and groups.

    Raises:
        CompressionError: The section is missing or damaged, or the table claims more than a file may have.
    """
    if (codes is None) != (not table.layers and not table.normalizations):
        raise CompressionError(
            f"it has {'no' if codes is None else 'a'} section {CODES!r}; allowed: one if it has layers"
        )
    if codes is None:
        return [], []
    _check_claims(table, len(codes))
    counts, shapes = [group.count for group in layout(table)], [block.shape for block in block_layout(table)]
    return entropy.decode(bytes_of(codes), counts, shapes)


def _check_claims(table: Table, size: int) -> None:
    """Check the numbers of integers and groups of a table against the bytes of the stream.

    Raises:
        CompressionError: The table claims more than a file may have.
    """
    integers, groups = claims(table)
    for claimed, what, most in (
        (integers, "integers", FREE_INTEGERS + INTEGERS_PER_BYTE * size),
        (groups, "groups", FREE_GROUPS + GROUPS_PER_BYTE * size),
    ):
        if claimed > most:
            raise CompressionError(
                f"its table claims {claimed} {what} in {size} bytes of its section {CODES!r}; allowed: {most}"
            )


class _Reader:
    """Read each section from its front.

    Args:
        sections: Name -> 1-d tensor, without the table and the stream.

    Raises:
        CompressionError: By ``take``, if a section has too few values; by ``finish``, if it has too many.
    """

    def __init__(self, sections: dict[str, Tensor]) -> None:
        self._sections = sections
        self._taken = dict.fromkeys(sections, 0)

    def take(self, section: str, count: int, dtype: torch.dtype) -> Tensor:
        values, start = self._sections.get(section), self._taken.get(section, 0)
        if values is None or values.dtype != dtype or count > len(values) - start:
            raise CompressionError(
                f"its section {section!r} does not hold the {count} values of type {DTYPE_NAMES[dtype]} that its table "
                "claims; allowed: exactly what the table claims"
            )
        self._taken[section] = start + count
        return values[start : start + count]

    def finish(self) -> None:
        for name, values in self._sections.items():
            if self._taken[name] != len(values):
                raise CompressionError(
                    f"its section {name!r} holds {len(values)} values, but its table names {self._taken[name]}; "
                    "allowed: exactly what the table claims"
                )


def _layer_entry(layer: LayerRecord) -> LayerEntry:
    values = layer.values
    if isinstance(values, SteppedTensor):
        bits, terms = None, values.exponents.ndim > 0
    else:
        bits, terms = values.format.bits, values.terms is not None
    return LayerEntry(
        name=layer.name,
        scheme=values.format.scheme,
        bits=bits,
        shape=tuple(values.integers.shape),
        terms=terms,
        basis=layer.basis,
        kernel=layer.kernel,
        bias=layer.bias is not None,
        named_tensor=layer.named_tensor,
    )


def _check_layer(entry: LayerEntry) -> None:
    """Check that the fields of a layer fit together.

    Raises:
        CompressionError: They do not.
    """
    schemes = (*SCHEMES, SteppedFormat.scheme)
    if entry.scheme not in schemes or (entry.bits is None) != (entry.scheme == SteppedFormat.scheme):
        raise CompressionError(
            f"its layer {entry.name!r} has the number format {entry.scheme!r} and bits {entry.bits}; allowed: "
            f"{', '.join(schemes)}, the last without bits and the others with bits"
        )
    if entry.terms and (len(entry.shape) != 4 or entry.scheme == MinifloatFormat.scheme):
        raise CompressionError(
            f"its layer {entry.name!r} has exponents of terms for shape {entry.shape} and scheme {entry.scheme!r}; "
            "allowed: for integers of 4 axes"
        )
    if (entry.basis, entry.kernel) == (None, None):
        return
    known = (*BASES, *FAMILIES)
    if entry.basis not in known or entry.kernel is None or len(entry.shape) != 4:
        raise CompressionError(
            f"its layer {entry.name!r} has basis {entry.basis!r}, kernel {entry.kernel} and shape {entry.shape}; "
            f"allowed: neither basis nor kernel, or one of {', '.join(known)} with a kernel and 4 axes"
        )
    if entry.basis in FAMILIES and entry.shape[2:] != (1, FAMILIES[entry.basis].values):
        raise CompressionError(
            f"its layer {entry.name!r} of basis {entry.basis!r} has shape {entry.shape}; allowed: axes 2 and 3 of 1 "
            f"and {FAMILIES[entry.basis].values}"
        )
    if entry.order is not None and any(n > k for n, k in zip(entry.order, entry.kernel, strict=True)):
        raise CompressionError(
            f"its layer {entry.name!r} has order {entry.order} for a kernel of {entry.kernel}; allowed: an order "
            "within the kernel"
        )


def _dtype_name(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in DTYPE_NAMES:
        raise CompressionError(f"artifact: {name!r} has type {tensor.dtype}; allowed: {', '.join(DTYPES)}")
    return DTYPE_NAMES[tensor.dtype]


def _take_tensor(entry: TensorEntry, reader: _Reader) -> Tensor:
    if entry.dtype not in DTYPES:
        raise CompressionError(f"its tensor {entry.name!r} has type {entry.dtype!r}; allowed: {', '.join(DTYPES)}")
    values = reader.take(f"{TENSORS}.{entry.dtype}", math.prod(entry.shape), DTYPES[entry.dtype])
    return values.reshape(entry.shape)
