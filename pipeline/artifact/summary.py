"""Account for the bits of an artifact by layer, by term and by kind of content."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.artifact.codec import CODES, TABLE, TENSORS, decode, table_of
from pipeline.artifact.container import Contents, split
from pipeline.artifact.groups import INTEGERS, SCALES, VECTORS, Group, groups_of, layout
from pipeline.artifact.header import Header
from pipeline.artifact.loading import naming, open_artifact
from pipeline.artifact.record import NetworkRecord
from quant import entropy


@dataclass
class LayerBits:
    """The bits of a layer in an artifact.

    Attributes:
        terms: Bits of the integers of each term or tap, in C order; one number for layers without these.
        scales: Bits of the scales.
    """

    terms: list[float] = field(default_factory=list)
    scales: float = 0.0

    @property
    def integers(self) -> float:
        """Return the bits of all integers."""
        return sum(self.terms)


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
    return Summary(header, record, *_account(record, contents))


def account(record: NetworkRecord, content: bytes) -> tuple[dict[str, LayerBits], dict[str, int]]:
    """Account for the bytes of an artifact that was made of a known record, without decoding it.

    Args:
        record: The tensors of the network.
        content: The artifact.

    Returns:
        Layer name -> bits, and kind of content -> number of bytes; see ``Summary``.
    """
    return _account(record, split(io.BytesIO(content)))


def layer_bits(record: NetworkRecord) -> dict[str, LayerBits]:
    """Return the bits that each layer has in an artifact, by name, without writing it."""
    groups = groups_of(record)
    return _layer_bits(record, layout(table_of(record)), entropy.coded_sizes(groups))


def _account(record: NetworkRecord, contents: Contents) -> tuple[dict[str, LayerBits], dict[str, int]]:
    groups, stream = layout(table_of(record)), contents.sections.get(CODES)
    sizes = np.array(entropy.coded_sizes(groups_of(record)))
    if stream is not None:
        sizes *= 8 * len(stream) / sizes.sum()
    return _layer_bits(record, groups, sizes.tolist()), _kinds(contents, groups, sizes.tolist())


def _layer_bits(record: NetworkRecord, groups: Sequence[Group], sizes: Sequence[float]) -> dict[str, LayerBits]:
    found = {layer.name: LayerBits() for layer in record.layers}
    for group, size in zip(groups, sizes, strict=True):
        if group.kind == INTEGERS:
            terms = found[group.layer].terms
            terms += [0.0] * (group.term + 1 - len(terms))
            terms[group.term] += size
        elif group.kind == SCALES:
            found[group.layer].scales += size
    return found


def _kinds(contents: Contents, groups: Sequence[Group], sizes: Sequence[float]) -> dict[str, int]:
    sections = {name: values.nbytes for name, values in contents.sections.items()}
    bits = {"integers": 0.0, "batch normalization and biases": 0.0, "scales and steps": 0.0}
    for group, size in zip(groups, sizes, strict=True):
        kind = {INTEGERS: "integers", VECTORS: "batch normalization and biases"}.get(group.kind, "scales and steps")
        bits[kind] += size
    ends = np.cumsum([0, *bits.values()]) / 8
    coded = dict(zip(bits, np.diff(ends.round().astype(int)).tolist(), strict=True))
    return {
        **coded,
        "other tensors": sum(size for name, size in sections.items() if name.startswith(TENSORS)),
        "table of layers": sections[TABLE],
        "header": contents.header_bytes,
        "checksum": contents.check_bytes,
    }
