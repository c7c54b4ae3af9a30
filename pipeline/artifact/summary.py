"""Account for the bytes of an artifact by kind of content."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import schemes
from pipeline.artifact.codec import CODES, NORMALIZATION, SCALES, TABLE, TENSORS, decode
from pipeline.artifact.container import Contents
from pipeline.artifact.header import Header, LayerEntry
from pipeline.artifact.loading import naming, open_artifact
from pipeline.artifact.record import NetworkRecord
from quant.schemes import Format, StoredTensor

_SCALE_BYTES = 4


@dataclass(frozen=True)
class Summary:
    """The contents and sizes of a valid artifact.

    Attributes:
        header: The description of the network.
        record: The tensors of the network.
        layers: The table's entries of the quantized layers, in the order of the network.
        kinds: Kind of content -> number of bytes; the sum is the size of the file.
    """

    header: Header
    record: NetworkRecord
    layers: tuple[LayerEntry, ...]
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
        table, record = decode(contents)
    return Summary(header, record, table.layers, _kinds(contents))


def layer_bytes(entry: LayerEntry) -> tuple[int, int]:
    """Return the number of bytes of a layer's codes and of its scales."""
    return _bytes(schemes.format_named(entry.scheme, entry.bits), entry.shape)


def tensor_bytes(values: StoredTensor) -> tuple[int, int]:
    """Return the number of bytes that the codes and the scales of a tensor have in an artifact."""
    return _bytes(values.format, tuple(values.integers.shape))


def _bytes(format: Format, shape: tuple[int, ...]) -> tuple[int, int]:
    return schemes.code_bytes(format, shape), _SCALE_BYTES * schemes.scale_count(format, shape)


def _kinds(contents: Contents) -> dict[str, int]:
    sections = {name: values.nbytes for name, values in contents.sections.items()}
    return {
        "codes": sections.pop(CODES, 0),
        "scales": sections.pop(SCALES, 0),
        "batch normalization": sum(size for name, size in sections.items() if name.startswith(NORMALIZATION)),
        "other tensors": sum(size for name, size in sections.items() if name.startswith(TENSORS)),
        "table of layers": sections[TABLE],
        "header": contents.header_bytes,
        "checksum": contents.check_bytes,
    }
