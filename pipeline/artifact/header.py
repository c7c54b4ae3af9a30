"""What an artifact says of its tensors: the header, plain JSON, and the table, JSON that is compressed."""

import zlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from basis.errors import CompressionError

FORMAT_VERSION = 1
MOST_TABLE_BYTES = 1 << 24

Size = Annotated[int, Field(ge=1, lt=1 << 31)]
Exponent = Annotated[int, Field(ge=-127, le=127)]
Crc = Annotated[int, Field(ge=0, lt=1 << 32)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Triple = tuple[float, float, float]
Deviation = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Version(BaseModel):
    """The one field that every version of the format has."""

    model_config = ConfigDict(strict=True)

    format_version: int


class Header(_Strict):
    """The metadata entry: the network, how to build it, and what its inputs and outputs are."""

    format_version: int
    model: Name
    builder: Name
    arguments: dict[str, bool | int]
    classes: Size
    class_names: tuple[str, ...]
    mean: Triple
    std: tuple[Deviation, Deviation, Deviation]
    image_size: tuple[Size, Size]


class LayerEntry(_Strict):
    """One layer in few bits; ``shape`` is that of its stored values, ``crc32`` is of its codes and then its scales.

    ``terms`` are the exponents of its terms' factors, (nh, nw): see ``quant.formats.QuantizedTensor``.
    """

    name: Name
    scheme: Name
    bits: int = Field(ge=2, le=8)
    shape: tuple[Size, ...] = Field(min_length=1, max_length=4)
    basis: Name | None = None
    order: tuple[Size, Size] | None = None
    kernel: tuple[Size, Size] | None = None
    terms: tuple[tuple[Exponent, ...], ...] | None = None
    crc32: Crc


class NormalizationEntry(_Strict):
    """One batch normalization as scale and shift; ``crc32`` is of its weight and then its bias."""

    name: Name
    dtype: Literal["F16", "F32"]
    channels: Size
    crc32: Crc


class TensorEntry(_Strict):
    """Any other parameter or buffer."""

    name: Name
    dtype: Name
    shape: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = Field(max_length=8)
    crc32: Crc


class Table(_Strict):
    """Everything that the sections hold, in the order in which they hold it."""

    layers: tuple[LayerEntry, ...] = ()
    normalizations: tuple[NormalizationEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What a network is, apart from its tensors.

    Attributes:
        model: A name that ``pipeline.models.registry.build_model`` takes.
        classes: Width of the output.
        class_names: One name per class.
        mean: Of the input's normalization, per channel, for values in 0..1.
        std: Of the same.
        image_size: Height and width in pixels of the images that it was measured with.
    """

    model: str
    classes: int
    class_names: tuple[str, ...]
    mean: Triple
    std: Triple
    image_size: tuple[int, int]


def read_header(text: str) -> Header:
    """Check and read the metadata entry.

    Raises:
        CompressionError: It is of another version, or not as it must be.
    """
    try:
        version = Version.model_validate_json(text).format_version
        if version != FORMAT_VERSION:
            raise CompressionError(f"it has format version {version}; allowed: {FORMAT_VERSION}")
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise CompressionError(f"it has no valid header: {_mistake(error)}") from None
    if len(header.class_names) != header.classes:
        raise CompressionError(
            f"its header has {header.classes} classes and {len(header.class_names)} names; allowed: one name per class"
        )
    return header


def pack_table(table: Table) -> bytes:
    """The table as JSON without fields that are null, compressed by zlib."""
    return zlib.compress(table.model_dump_json(exclude_none=True).encode(), 9)


def read_table(compressed: bytes) -> Table:
    """Read what ``pack_table`` gave; no more than ``MOST_TABLE_BYTES`` are ever unpacked.

    Raises:
        CompressionError: It is damaged, too long, or not as it must be.
    """
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(compressed, MOST_TABLE_BYTES)
        if not stream.eof or stream.unused_data:
            raise CompressionError(f"its table is no zlib stream of at most {MOST_TABLE_BYTES} bytes; allowed: that")
        return Table.model_validate_json(text)
    except zlib.error:
        raise CompressionError("its table cannot be decompressed; allowed: one zlib stream") from None
    except ValidationError as error:
        raise CompressionError(f"its table is not valid: {_mistake(error)}") from None


def _mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:100]
    return f"{place or 'it'}: {first['msg'][:300]}; allowed: the fields of format {FORMAT_VERSION}"
