"""Pack integers of 2 to 16 bits into a bit stream, as ONNX files hold them.

The values follow one another without gaps, in C order, each as two's complement of ``bits`` bits, lowest bit first; bit
k of the stream is bit k % 8 of byte k // 8. Only the end of the last byte is filled up, with zeros.

    4 bits   byte 0                         byte 1
             | v1: 3 2 1 0 | v0: 3 2 1 0 |  | v3: 3 2 1 0 | v2: 3 2 1 0 |      two values a byte, low nibble first
             bit 7                 bit 0    bit 7                 bit 0

    3 bits   byte 0   | v2: 1 0 | v1: 2 1 0 | v0: 2 1 0 |
             byte 1   | v5: 0 | v4: 2 1 0 | v3: 2 1 0 | v2: 2 |                eight values in three bytes
             byte 2   | v7: 2 1 0 | v6: 2 1 0 | v5: 2 1 |

    12 bits  byte 0   | v0: 7 to 0 |
             byte 1   | v1: 3 2 1 0 | v0: 11 10 9 8 |                          two values in three bytes
             byte 2   | v1: 11 to 4 |

    8 bits   the bytes themselves; 16 bits: two bytes a value, the low one first
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from basis.errors import CompressionError

_Codes = npt.NDArray[Any]  # uint8 for widths of up to 8 bits, uint16 above

MIN_WIDTH, MAX_WIDTH = 2, 16

# Eight values of any width fill a whole number of bytes (as many as the width has bits).
_BLOCK = 8


def packed_size(count: int, bits: int) -> int:
    """Return the bytes of ``count`` packed values of ``bits`` bits."""
    return (count * bits + 7) // 8


def pack(integers: Tensor, bits: int) -> Tensor:
    """Pack integers in the layout above.

    Args:
        integers: int8 or, for more than 8 bits, int16, any shape; values in -2**(bits-1)..2**(bits-1)-1.
        bits: The width of one value, 2 to 16.

    Returns:
        uint8 on the CPU, shape (packed_size(integers.numel(), bits),).

    Raises:
        CompressionError: The type, the width or a value is out of range.

    Example:
        >>> pack(torch.tensor([1, -1, 7], dtype=torch.int8), 4)
        tensor([241,   7], dtype=torch.uint8)
    """
    _check_range(integers, _check_width("pack", bits))
    codes = integers.detach().cpu().contiguous().flatten().numpy().view(_unsigned(bits))
    if bits % 8 == 0:
        return torch.from_numpy(codes.astype(codes.dtype.newbyteorder("<")).view(np.uint8))
    blocks = _blocks(codes & codes.dtype.type(2**bits - 1), _BLOCK)
    packed = np.zeros((len(blocks), bits), dtype=np.uint8)
    for value, byte, shift in _overlaps(bits):
        packed[:, byte] |= _shifted(blocks[:, value], shift).astype(np.uint8)
    return torch.from_numpy(packed.reshape(-1)[: packed_size(codes.size, bits)].copy())


def _check_width(operation: str, bits: int) -> int:
    if type(bits) is not int or not MIN_WIDTH <= bits <= MAX_WIDTH:
        raise CompressionError(f"{operation} got bits={bits!r}; allowed: integers {MIN_WIDTH} to {MAX_WIDTH}")
    return bits


def _unsigned(bits: int) -> np.dtype[Any]:
    """Return the unsigned type of one value: uint8 or uint16."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16)


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """Yield (value, byte, shift) of one block: the value, shifted left (right if negative), lands in the byte."""
    for value in range(_BLOCK):
        first, last = value * bits, value * bits + bits - 1
        for byte in range(first // 8, last // 8 + 1):
            yield value, byte, first - 8 * byte


def _shifted(values: _Codes, shift: int) -> _Codes:
    """Shift left, or right by a negative number; bits that leave the byte or value belong to its neighbour."""
    by = values.dtype.type(abs(shift))
    shifted: _Codes = values << by if shift >= 0 else values >> by
    return shifted


def _blocks(values: _Codes, width: int) -> _Codes:
    """Cut values into rows of ``width``, the last one filled up with zeros."""
    missing = -values.size % width
    padded = np.pad(values, (0, missing)) if missing else values
    return padded.reshape(-1, width)


def _check_range(integers: Tensor, bits: int) -> None:
    allowed = torch.int8 if bits <= 8 else torch.int16
    if integers.dtype != allowed:
        raise CompressionError(
            f"pack got integers of type {integers.dtype}; allowed: {str(allowed).removeprefix('torch.')}"
        )
    if integers.numel() == 0:
        return
    low, high = (int(bound) for bound in integers.aminmax())
    if low < -(2 ** (bits - 1)) or high >= 2 ** (bits - 1):
        raise CompressionError(
            f"pack got integers in {low}..{high}; allowed with {bits} bits: {-(2 ** (bits - 1))}..{2 ** (bits - 1) - 1}"
        )
