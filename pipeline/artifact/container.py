"""Write and read the container of an artifact: a safetensors file of 1-d sections, with a checksum of all its bytes.

    bytes 0..7     N, the header's length: unsigned, little-endian
    bytes 8..7+N   the header: JSON, filled up with spaces to a multiple of 8
                   {"__metadata__": {"seriesquant": TEXT},
                    SECTION: {"dtype": "U8", "shape": [COUNT], "data_offsets": [START, END]}, ...}
    from 8+N on    the sections in the header's order, without gaps; the last, "check" (U8, 4 bytes), is the CRC-32
                   of every byte of the file before it (``zlib.crc32``), little-endian

A reader checks every size in the header against the size of the file before it allocates memory for the sections.
"""

import io
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from basis.errors import CompressionError
from pipeline.models.checkpoint.files import ARTIFACT_KEY

CHECK = "check"
MOST_HEADER_BYTES = 1 << 24
_ALIGNMENT = 8
_LENGTH_BYTES = 8
_CHECK_BYTES = 4
_CHUNK_BYTES = 1 << 20

DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Name of a type in safetensors -> the type, in the order of the sections: the widest first, for alignment."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Contents:
    """The parts of a file.

    Attributes:
        text: The metadata entry ``ARTIFACT_KEY``.
        sections: Name -> 1-d tensor, in the order of the file, without the checksum.
        header_bytes: Number of bytes before the first section.
        check_bytes: Number of bytes of the checksum.
    """

    text: str
    sections: dict[str, Tensor]
    header_bytes: int
    check_bytes: int = _CHECK_BYTES


def join(text: str, sections: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a file.

    Args:
        text: The metadata entry ``ARTIFACT_KEY``.
        sections: Name -> 1-d tensor of a type in ``DTYPES``. Sections of wider types are stored first.
    """
    order = list(DTYPES.values())
    stored = dict(sorted(sections.items(), key=lambda section: order.index(section[1].dtype)))
    stored[CHECK] = torch.zeros(_CHECK_BYTES, dtype=torch.uint8)
    header: dict[str, Any] = {"__metadata__": {ARTIFACT_KEY: text}}
    start = 0
    for name, values in stored.items():
        end = start + values.nbytes
        header[name] = {"dtype": DTYPE_NAMES[values.dtype], "shape": [len(values)], "data_offsets": [start, end]}
        start = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    parts = [len(encoded).to_bytes(_LENGTH_BYTES, "little"), encoded]
    parts += [bytes_of(values) for name, values in stored.items() if name != CHECK]
    content = b"".join(parts)
    return content + zlib.crc32(content).to_bytes(_CHECK_BYTES, "little")


def split(file: BinaryIO) -> Contents:
    """Read a file written by ``join``.

    Args:
        file: The file, seekable.

    Raises:
        CompressionError: The file is damaged or of another kind.
        OSError: The file cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    prefix = file.read(_LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or not 2 <= length <= min(MOST_HEADER_BYTES, size - _LENGTH_BYTES):
        raise CompressionError(
            f"it has {size} bytes and claims a header of {length}; allowed: a header within the file, "
            f"of at most {MOST_HEADER_BYTES} bytes"
        )
    encoded = file.read(length)
    text, places = _read_header(encoded, size - _LENGTH_BYTES - length)
    if _checksum(file, size - _CHECK_BYTES) != int.from_bytes(file.read(), "little"):
        raise CompressionError("its bytes do not match their checksum; allowed: the file exactly as it was written")
    start = file.seek(_LENGTH_BYTES + length)
    sections = {name: _read(file, dtype, nbytes) for name, (dtype, nbytes) in places.items() if name != CHECK}
    return Contents(text, sections, start)


def _checksum(file: BinaryIO, size: int) -> int:
    """Return the CRC-32 of the first ``size`` bytes, read in chunks because the file may exceed the memory."""
    crc = file.seek(0)
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def bytes_of(values: Tensor) -> bytes:
    """Return the values of a tensor as bytes: little-endian, in C order."""
    flat = values.detach().cpu().contiguous().flatten()
    return bytes(flat.view(torch.uint8).numpy().data)


def _read_header(encoded: bytes, data_bytes: int) -> tuple[str, dict[str, tuple[torch.dtype, int]]]:
    """Return the metadata entry, and each section's type and number of bytes in the order of the file, checked."""
    try:
        header = json.loads(encoded)
        text = header.pop("__metadata__")[ARTIFACT_KEY]
        places = {name: _place(section) for name, section in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CompressionError(f"its header is not that of an artifact; allowed: JSON with {ARTIFACT_KEY!r}") from None
    if not isinstance(text, str):
        raise CompressionError(f"its entry {ARTIFACT_KEY!r} is no text; allowed: JSON text")
    end = 0
    for _, start, following in places.values():
        if start != end:
            raise CompressionError("its sections overlap, leave gaps or are out of order; allowed: one after another")
        end = following
    if end != data_bytes:
        raise CompressionError(f"its header claims {end} bytes of data, but it has {data_bytes}; allowed: the same")
    sections = {name: (dtype, following - start) for name, (dtype, start, following) in places.items()}
    if not sections or list(sections.items())[-1] != (CHECK, (torch.uint8, _CHECK_BYTES)):
        raise CompressionError(f"its last section is not {CHECK!r}; allowed: a checksum of {_CHECK_BYTES} bytes")
    return text, sections


def _place(section: Any) -> tuple[torch.dtype, int, int]:
    """Return a section's type, start and end.

    Raises:
        ValueError, TypeError, KeyError: The entry is not valid.
    """
    dtype = DTYPES[section["dtype"]]
    (count,), (start, end) = section["shape"], section["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (count, start, end)):
        raise ValueError
    if end - start != count * dtype.itemsize or len(section) != 3:
        raise ValueError
    return dtype, start, end


def _read(file: BinaryIO, dtype: torch.dtype, nbytes: int) -> Tensor:
    """Read the next section into new, aligned memory."""
    values = torch.empty(nbytes // dtype.itemsize, dtype=dtype)
    cast(io.BufferedReader, file).readinto(values.view(torch.uint8).numpy().data)
    return values
