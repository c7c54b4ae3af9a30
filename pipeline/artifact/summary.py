"""What an artifact's bytes are spent on."""

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
    """A file that was read completely, every value checked.

    Attributes:
        header: What it says of its network.
        record: The network's tensors.
        layers: How each layer is stored, in network order.
        kinds: Kind of content -> bytes; together they are the file.
    """

    header: Header
    record: NetworkRecord
    layers: tuple[LayerEntry, ...]
    kinds: dict[str, int]

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return sum(self.kinds.values())


def summarize(path: Path) -> Summary:
    """Read an artifact and account for its bytes.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
    """
    header, contents = open_artifact(path)
    with naming(path):
        table, record = decode(contents)
    return Summary(header, record, table.layers, _kinds(contents))


def layer_bytes(entry: LayerEntry) -> tuple[int, int]:
    """Bytes of a layer's codes and of its scales."""
    return _bytes(schemes.format_named(entry.scheme, entry.bits), entry.shape)


def tensor_bytes(values: StoredTensor) -> tuple[int, int]:
    """Bytes that a tensor's codes and its scales take in an artifact."""
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
