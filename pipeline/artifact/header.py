"""Describe a network and its tensors: the header of an artifact (JSON) and its table (JSON compressed by zlib)."""

import math
import zlib
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from basis.errors import CompressionError
from basis.families import BASES
from basis.least_squares import Size2d

FORMAT_VERSION = 2
MOST_TABLE_BYTES = 1 << 24
MOST_CLASSES = 1 << 22
"""Most classes: a reader makes a name for each of them."""
MOST_IMAGE_VALUES = 1 << 28
"""Most values of an image of ``image_size``: 1 GiB in float32, which a reader may allocate to build a network."""
OBJECT = "object"
"""Builder of a network that only its owner can build; the header's ``model`` is the qualified name of its class."""

Size = Annotated[int, Field(ge=1, lt=1 << 31)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Deviation = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Version(BaseModel):
    """The only field that all versions of the format share."""

    model_config = ConfigDict(strict=True)

    format_version: int


class Header(_Strict):
    """The metadata entry: the network, its builder, and the format of its inputs and outputs.

    ``class_names`` is None for the names ``0``, ``1``, ... in this order. ``output`` is None for a network that returns
    its logits by default.
    """

    format_version: int
    model: Name
    builder: Name
    arguments: dict[str, bool | int]
    classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Deviation, ...] = Field(min_length=1)
    image_size: tuple[Size, Size]
    output: Name | None = None


class LayerEntry(_Strict):
    """A quantized layer.

    Attributes:
        name: Name of the module in the network.
        scheme: The number format: ``int``, ``minifloat`` or ``stepped``.
        bits: The width of the option ``--bits``; None for ``stepped``.
        shape: Shape of the stored values.
        terms: True if each term (or tap of a kernel) has an exponent, (nh, nw).
        basis: A choice of ``--basis``; None if the stored values are the weight itself.
        kernel: Size of the kernel, (kh, kw); None without a basis.
        bias: True if the file has a coded bias of the layer.
        named_tensor: True if ``name`` is the name of the tensor, False if the tensor is ``NAME.weight``.
    """

    name: Name
    scheme: Name
    bits: int | None = Field(default=None, ge=2, le=8)
    shape: tuple[Size, ...] = Field(min_length=1, max_length=5)
    terms: bool = False
    basis: Name | None = None
    kernel: tuple[Size, Size] | None = None
    bias: bool = False
    named_tensor: bool = False

    @property
    def order(self) -> Size2d | None:
        """Return the order (nh, nw) of a series; None without a series."""
        return (self.shape[2], self.shape[3]) if self.basis in BASES else None


class NormalizationEntry(_Strict):
    """A batch normalization as scale and shift."""

    name: Name
    channels: Size


class TensorEntry(_Strict):
    """A parameter or buffer outside the layers and normalizations, in the shape of the network."""

    name: Name
    dtype: Name
    shape: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = Field(max_length=8)


class Table(_Strict):
    """The contents of the sections, in their order."""

    layers: tuple[LayerEntry, ...] = ()
    normalizations: tuple[NormalizationEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()


@dataclass(frozen=True)
class Identity:
    """The description of a network, without its tensors.

    Attributes:
        model: A model name of ``pipeline.models.registry.build_model``; for an object, the qualified name of its class.
        classes: Number of classes, the width of the output.
        class_names: One name per class.
        mean: Mean of the input normalization per channel, for pixel values in 0..1.
        std: Standard deviation of the input normalization per channel, for pixel values in 0..1.
        image_size: Height and width, in pixels, of the test images.
        output: Number or name of the network's output with the logits; None for the default.
        is_object: True for a network that no name builds: the reader must pass it.
    """

    model: str
    classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    output: str | None = None
    is_object: bool = False

    @property
    def channels(self) -> int:
        """Number of channels of the input."""
        return len(self.mean)


def default_names(classes: int) -> tuple[str, ...]:
    """Return the class names that a header leaves out: ``0``, ``1``, ..."""
    return tuple(map(str, range(classes)))


def class_names(header: Header) -> tuple[str, ...]:
    """Return one name per class."""
    return default_names(header.classes) if header.class_names is None else header.class_names


def read_header(text: str) -> Header:
    """Parse and check the metadata entry.

    Raises:
        CompressionError: The entry is not valid, or of another format version.
    """
    try:
        version = Version.model_validate_json(text).format_version
        if version != FORMAT_VERSION:
            raise CompressionError(f"it has format version {version}; allowed: {FORMAT_VERSION}")
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise CompressionError(f"it has no valid header: {_first_mistake(error)}") from None
    if header.builder == OBJECT and header.arguments:
        raise CompressionError(f"its header has arguments {header.arguments} for an {OBJECT}; allowed: none")
    if header.class_names is not None and len(header.class_names) != header.classes:
        raise CompressionError(
            f"its header has {header.classes} classes and {len(header.class_names)} names; allowed: one name per class"
        )
    if len(header.mean) != len(header.std):
        raise CompressionError(
            f"its header has {len(header.mean)} values of mean and {len(header.std)} of std; allowed: one of each per "
            "channel"
        )
    if (values := math.prod((len(header.mean), *header.image_size))) > MOST_IMAGE_VALUES:
        raise CompressionError(f"its header has images of {values} values; allowed: {MOST_IMAGE_VALUES}")
    return header


def pack_table(table: Table) -> bytes:
    """Return the table as JSON without the default values, compressed by zlib at level 9."""
    return zlib.compress(table.model_dump_json(exclude_defaults=True).encode(), 9)


def read_table(compressed: bytes) -> Table:
    """Invert ``pack_table``; decompress at most ``MOST_TABLE_BYTES``.

    Raises:
        CompressionError: The table is damaged, too long or not valid.
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
        raise CompressionError(f"its table is not valid: {_first_mistake(error)}") from None


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:100]
    return f"{place or 'it'}: {first['msg'][:300]}; allowed: the fields of format {FORMAT_VERSION}"
