"""Convert a network's record to the sections of an artifact, and back.

    codes                  U8    packed integers or minifloats of the layers, one layer after another
    scales                 F32   scales of the integer layers, one per output channel
    normalization.DTYPE    weight and bias of each batch normalization, F16 or F32
    tensors.DTYPE          all other parameters and buffers
    table                  U8    compressed JSON: which part of which section belongs to which layer

Parts of a section follow each other without gaps, in the order of the table. The table has a CRC-32 of each part.
"""

import math
import zlib
from collections import defaultdict

import torch
from torch import Tensor

from basis.errors import CompressionError
from basis.families import BASES
from pipeline.artifact import schemes
from pipeline.artifact.batchnorm import NormalizationRecord
from pipeline.artifact.container import DTYPE_NAMES, DTYPES, Contents, bytes_of, join
from pipeline.artifact.header import (
    FORMAT_VERSION,
    Header,
    Identity,
    LayerEntry,
    NormalizationEntry,
    Table,
    TensorEntry,
    pack_table,
    read_table,
)
from pipeline.artifact.record import LayerRecord, NetworkRecord
from pipeline.models.registry import builder_of
from quant.formats import IntFormat

CODES, SCALES, NORMALIZATION, TENSORS, TABLE = "codes", "scales", "normalization", "tensors", "table"


def serialize(record: NetworkRecord, identity: Identity) -> bytes:
    """Return the bytes of an artifact; equal networks have equal bytes.

    Args:
        record: The network.
        identity: Its name, classes and input format.

    Raises:
        CompressionError: A tensor has a type that safetensors cannot store.
    """
    parts: dict[str, list[Tensor]] = defaultdict(list)
    table = Table(
        layers=tuple(_add_layer(layer, parts) for layer in record.layers),
        normalizations=tuple(_add_normalization(entry, parts) for entry in record.normalizations),
        tensors=tuple(_add_tensor(name, tensor, parts) for name, tensor in record.floats.items()),
    )
    sections = {name: torch.cat(tensors) for name, tensors in parts.items()}
    sections[TABLE] = torch.frombuffer(bytearray(pack_table(table)), dtype=torch.uint8)
    return join(_header(identity).model_dump_json(), sections)


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
    reader = _Reader({name: values for name, values in contents.sections.items() if name != TABLE})
    record = NetworkRecord(
        tuple(_take_layer(entry, reader) for entry in table.layers),
        {entry.name: _take_tensor(entry, reader) for entry in table.tensors},
        tuple(_take_normalization(entry, reader) for entry in table.normalizations),
    )
    reader.finish()
    return table, record


def _header(identity: Identity) -> Header:
    builder, arguments = builder_of(identity.model, identity.classes)
    return Header(format_version=FORMAT_VERSION, builder=builder, arguments=arguments, **vars(identity))


class _Reader:
    """Read each section from its front.

    Args:
        sections: Name -> 1-d tensor, without the table.

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


def _add_layer(layer: LayerRecord, parts: dict[str, list[Tensor]]) -> LayerEntry:
    codes, scales = schemes.encode(layer.values)
    parts[CODES].append(codes)
    if len(scales):
        parts[SCALES].append(scales)
    return LayerEntry(
        name=layer.name,
        scheme=layer.values.format.scheme,
        bits=layer.values.format.bits,
        shape=tuple(layer.values.integers.shape),
        basis=layer.basis,
        order=layer.order,
        kernel=layer.kernel,
        terms=None if layer.values.terms is None else tuple(map(tuple, layer.values.terms.tolist())),
        crc32=_crc(codes, scales),
    )


def _take_layer(entry: LayerEntry, reader: _Reader) -> LayerRecord:
    format = schemes.format_named(entry.scheme, entry.bits)
    _check_series(entry)
    codes = reader.take(CODES, schemes.code_bytes(format, entry.shape), torch.uint8)
    count = schemes.scale_count(format, entry.shape)
    scales = reader.take(SCALES, count, torch.float32) if count else torch.empty(0)
    _check_crc(entry, codes, scales)
    try:
        values = schemes.decode(codes, scales, format, entry.shape, entry.terms)
    except CompressionError as error:
        raise CompressionError(f"its layer {entry.name!r} is damaged: {error}") from None
    return LayerRecord(entry.name, values, entry.basis, entry.order, entry.kernel)


def _check_series(entry: LayerEntry) -> None:
    parts = (entry.basis, entry.order, entry.kernel)
    if entry.terms is not None and (
        entry.order is None
        or entry.scheme != IntFormat.scheme
        or len(entry.terms) != entry.order[0]
        or any(len(row) != entry.order[1] for row in entry.terms)
    ):
        raise CompressionError(
            f"its layer {entry.name!r} has the terms {entry.terms} for order {entry.order} and scheme "
            f"{entry.scheme!r}; allowed: one exponent for each term of a series of integers"
        )
    if parts == (None, None, None):
        return
    if entry.basis is None or entry.order is None or entry.kernel is None or entry.shape[2:] != entry.order:
        raise CompressionError(
            f"its layer {entry.name!r} has basis, order and kernel {parts} and shape {entry.shape}; allowed: none of "
            "the three, or all with the order as the shape's end"
        )
    if entry.basis not in BASES or any(n > k for n, k in zip(entry.order, entry.kernel, strict=True)):
        raise CompressionError(
            f"its layer {entry.name!r} has basis {entry.basis!r} and order {entry.order} for a kernel of "
            f"{entry.kernel}; allowed: {', '.join(BASES)}, and an order within the kernel"
        )


def _add_normalization(record: NormalizationRecord, parts: dict[str, list[Tensor]]) -> NormalizationEntry:
    dtype = DTYPE_NAMES[record.weight.dtype]
    parts[f"{NORMALIZATION}.{dtype}"] += [record.weight, record.bias]
    crc = _crc(record.weight, record.bias)
    return NormalizationEntry.model_validate(
        {"name": record.name, "dtype": dtype, "channels": len(record.weight), "crc32": crc}
    )


def _take_normalization(entry: NormalizationEntry, reader: _Reader) -> NormalizationRecord:
    section, dtype = f"{NORMALIZATION}.{entry.dtype}", DTYPES[entry.dtype]
    weight, bias = (reader.take(section, entry.channels, dtype) for _ in range(2))
    _check_crc(entry, weight, bias)
    if not all(bool(torch.isfinite(values).all()) for values in (weight, bias)):
        raise CompressionError(f"its normalization {entry.name!r} holds NaN or infinity; allowed: finite numbers")
    return NormalizationRecord(entry.name, weight, bias)


def _add_tensor(name: str, tensor: Tensor, parts: dict[str, list[Tensor]]) -> TensorEntry:
    if tensor.dtype not in DTYPE_NAMES:
        raise CompressionError(f"artifact: {name!r} has type {tensor.dtype}; allowed: {', '.join(DTYPES)}")
    dtype = DTYPE_NAMES[tensor.dtype]
    parts[f"{TENSORS}.{dtype}"].append(tensor.contiguous().flatten())
    return TensorEntry(name=name, dtype=dtype, shape=tuple(tensor.shape), crc32=_crc(tensor))


def _take_tensor(entry: TensorEntry, reader: _Reader) -> Tensor:
    if entry.dtype not in DTYPES:
        raise CompressionError(f"its tensor {entry.name!r} has type {entry.dtype!r}; allowed: {', '.join(DTYPES)}")
    values = reader.take(f"{TENSORS}.{entry.dtype}", math.prod(entry.shape), DTYPES[entry.dtype])
    _check_crc(entry, values)
    return values.reshape(entry.shape)


def _crc(*tensors: Tensor) -> int:
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(bytes_of(tensor), crc)
    return crc


def _check_crc(entry: LayerEntry | NormalizationEntry | TensorEntry, *tensors: Tensor) -> None:
    if _crc(*tensors) != entry.crc32:
        raise CompressionError(f"the values of {entry.name!r} do not match their checksum; allowed: those written")
