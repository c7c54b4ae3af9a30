"""Account for the bits of an artifact by layer, by term and by kind of content."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.artifact.codec import CODES, TABLE, TENSORS, decode, plan_stream, table_of
from pipeline.artifact.container import Contents, split
from pipeline.artifact.groups import INTEGERS, SCALES, VECTORS, block_layout, layout
from pipeline.artifact.header import Header
from pipeline.artifact.loading import naming, open_artifact
from pipeline.artifact.record import NetworkRecord
from quant import entropy


@dataclass
class LayerBits:
    """The bits of a layer in an artifact.

    Attributes:
        terms: Bits of the integers of each term or tap, in C order; one number for layers without these.
        classes: Bits that describe the classes of the integers.
        scales: Bits of the scales.
    """

    terms: list[float] = field(default_factory=list)
    classes: float = 0.0
    scales: float = 0.0

    @property
    def integers(self) -> float:
        """Return the bits of all integers."""
        return sum(self.terms) + self.classes


@dataclass(frozen=True)
class Summary:
    """The contents and sizes of a valid artifact.

    Attributes:
        header: The description of the network.
        record: The tensors of the network.
        layers: Layer name -> bits, in the order of the network.
        kinds: Kind of content -> number of bytes; the sum is the size of the file.
    """

    header: Header
    record: NetworkRecord
    layers: dict[str, LayerBits]
    kinds: dict[str, int]

    @property
    def size(self) -> int:
        """Return the size of the file in bytes."""
        return sum(self.kinds.values())


def summarize(path: Path) -> Summary:
    """Read an artifact, check all its values, and account for its bytes.

    Args:
        path: The artifact.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
    """
    header, contents = open_artifact(path)
    with naming(path):
        _, record = decode(contents)
    return Summary(header, record, *_account(record, contents, plan_stream(record)))


def account(record: NetworkRecord, content: bytes, plan: entropy.Plan) -> tuple[dict[str, LayerBits], dict[str, int]]:
    """Account for the bytes of an artifact that was made of a known record, without decoding it.

    Args:
        record: The tensors of the network.
        content: The artifact.
        plan: Of the record, from ``pipeline.artifact.codec.plan_stream``.

    Returns:
        Layer name -> bits, and kind of content -> number of bytes; see ``Summary``.
    """
    return _account(record, split(io.BytesIO(content)), plan)


def layer_bits(record: NetworkRecord, plan: entropy.Plan) -> dict[str, LayerBits]:
    """Return the bits that each layer has in an artifact, by name, without writing it; arguments as in ``account``."""
    return _coded_bits(record, plan)[0]


def _account(
    record: NetworkRecord, contents: Contents, plan: entropy.Plan
) -> tuple[dict[str, LayerBits], dict[str, int]]:
    stream = contents.sections.get(CODES)
    layers, kinds = _coded_bits(record, plan, None if stream is None else 8 * len(stream))
    return layers, _kinds(contents, kinds)


def _coded_bits(
    record: NetworkRecord, plan: entropy.Plan, size: int | None = None
) -> tuple[dict[str, LayerBits], dict[str, float]]:
    """Return the bits of each layer and of each kind of coded content.

    Args:
        record: The tensors of the network.
        plan: Of the record.
        size: Bits of the stream, to which all bits add up; None for its size without the states of the lanes.
    """
    table, found = table_of(record), {layer.name: LayerBits() for layer in record.layers}
    groups, blocks = entropy.planned_sizes(plan)
    total = sum(groups) + sum(sum(block.terms) + block.offsets for block in blocks)
    scale = 1.0 if size is None else size / total
    kinds = {INTEGERS: 0.0, VECTORS: 0.0, SCALES: 0.0}
    for group, bits in zip(layout(table), groups, strict=True):
        kinds[group.kind if group.kind in kinds else SCALES] += scale * bits
        if group.kind == INTEGERS:
            found[group.layer].terms = [sum(found[group.layer].terms) + scale * bits]
        elif group.kind == SCALES:
            found[group.layer].scales = scale * bits
    for place, block in zip(block_layout(table), blocks, strict=True):
        own = found[place.layer]
        own.terms, own.classes = [scale * bits for bits in block.terms], scale * block.offsets
        kinds[INTEGERS] += own.integers
    return found, kinds


def _kinds(contents: Contents, coded_bits: dict[str, float]) -> dict[str, int]:
    sections = {name: values.nbytes for name, values in contents.sections.items()}
    names = {INTEGERS: "integers", VECTORS: "batch normalization and biases", SCALES: "scales and steps"}
    ends = np.cumsum([0, *(coded_bits[kind] for kind in names)]) / 8
    coded = dict(zip(names.values(), np.diff(ends.round().astype(int)).tolist(), strict=True))
    return {
        **coded,
        "other tensors": sum(size for name, size in sections.items() if name.startswith(TENSORS)),
        "table of layers": sections[TABLE],
        "header": contents.header_bytes,
        "checksum": contents.check_bytes,
    }
