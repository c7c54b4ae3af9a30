"""Packs small integers into a bit stream, and back.

The values follow one another without gaps, in C order, each as two's complement of `bits` bits, lowest bit first; bit
k of the stream is bit k % 8 of byte k // 8. Only the end of the last byte is filled up, with zeros.

    4 bits   byte 0                         byte 1
             | v1: 3 2 1 0 | v0: 3 2 1 0 |  | v3: 3 2 1 0 | v2: 3 2 1 0 |      two values a byte, low nibble first
             bit 7                 bit 0    bit 7                 bit 0

    3 bits   byte 0   | v2: 1 0 | v1: 2 1 0 | v0: 2 1 0 |
             byte 1   | v5: 0 | v4: 2 1 0 | v3: 2 1 0 | v2: 2 |                eight values in three bytes
             byte 2   | v7: 2 1 0 | v6: 2 1 0 | v5: 2 1 |

    8 bits   the bytes themselves
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from basis.errors import CompressionError
from quant.formats import IntFormat

_Bytes = npt.NDArray[np.uint8]

# Eight values of any width fill a whole number of bytes (as many as the width has bits).
_BLOCK = 8


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(integers: Tensor, bits: int) -> Tensor:
    """Packs integers as the layout above.

    Args:
        integers: int8, any shape; values in -2**(bits-1)..2**(bits-1)-1.
        bits: the width of one value, 2 to 8.

    Returns:
        uint8 on the CPU, shape (packed_size(integers.numel(), bits),).

    Raises:
        CompressionError: if the type, the width or a value is out of range.

    Example:
        >>> pack(torch.tensor([1, -1, 7], dtype=torch.int8), 4)
        tensor([241,   7], dtype=torch.uint8)
    """
    _check_range(integers, IntFormat(bits).bits)
    codes = integers.detach().cpu().contiguous().view(torch.uint8).flatten().numpy()
    if bits == 8:
        return torch.from_numpy(codes.copy())
    blocks = _blocks(codes & np.uint8(2**bits - 1), _BLOCK)
    packed = np.zeros((len(blocks), bits), dtype=np.uint8)
    for value, byte, shift in _overlaps(bits):
        packed[:, byte] |= _shifted(blocks[:, value], shift)
    return torch.from_numpy(packed.reshape(-1)[: packed_size(codes.size, bits)].copy())


def unpack(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Reads back what `pack` wrote.

    Args:
        packed: uint8, shape (packed_size(prod(shape), bits),).
        bits: the width of one value, 2 to 8.
        shape: the shape of the integers.

    Returns:
        int8 on the CPU, of that shape.

    Raises:
        CompressionError: if the type, the width, the shape or the number of bytes is wrong, or the padding is not zero.
    """
    count = _count(shape)
    _check_packed(packed, IntFormat(bits).bits, count)
    stream = packed.detach().cpu().contiguous().numpy()
    if bits == 8:
        return torch.from_numpy(stream.copy()).view(torch.int8).reshape(tuple(shape))
    blocks = _blocks(stream, bits)
    codes = np.zeros((len(blocks), _BLOCK), dtype=np.uint8)
    for value, byte, shift in _overlaps(bits):
        codes[:, value] |= _shifted(blocks[:, byte], -shift)
    values = _sign_extended(codes.reshape(-1)[:count], bits)
    return torch.from_numpy(values).reshape(tuple(shape))


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """Yields (value, byte, shift) of one block: `value` shifted left by `shift` (right if negative) lands in `byte`."""
    for value in range(_BLOCK):
        first, last = value * bits, value * bits + bits - 1
        for byte in range(first // 8, last // 8 + 1):
            yield value, byte, first - 8 * byte


def _shifted(values: _Bytes, shift: int) -> _Bytes:
    """Shifts left by `shift`, or right if it is negative; bits that leave the byte belong to its neighbour."""
    return values << np.uint8(shift) if shift >= 0 else values >> np.uint8(-shift)


def _blocks(values: _Bytes, width: int) -> _Bytes:
    """Cuts values into rows of `width`, the last one filled up with zeros."""
    missing = -values.size % width
    padded = np.pad(values, (0, missing)) if missing else values
    return padded.reshape(-1, width)


def _sign_extended(codes: _Bytes, bits: int) -> npt.NDArray[np.int8]:
    """Two's complement of `bits` bits (higher bits ignored) to int8; uint8 arithmetic wraps as it must."""
    sign = np.uint8(2 ** (bits - 1))
    codes = codes & np.uint8(2**bits - 1)
    codes ^= sign
    codes -= sign
    return codes.view(np.int8)


def _check_range(integers: Tensor, bits: int) -> None:
    if integers.dtype != torch.int8:
        raise CompressionError(f"pack got integers of type {integers.dtype}; allowed is int8.")
    if integers.numel() == 0:
        return
    low, high = (int(bound) for bound in integers.aminmax())
    if low < -(2 ** (bits - 1)) or high >= 2 ** (bits - 1):
        raise CompressionError(
            f"pack got integers in {low}..{high}; {bits} bits allow {-(2 ** (bits - 1))}..{2 ** (bits - 1) - 1}."
        )


def _count(shape: Sequence[int]) -> int:
    if any(size < 0 for size in shape):
        raise CompressionError(f"unpack got the shape {tuple(shape)}; allowed are sizes of zero or more.")
    return math.prod(shape)


def _check_packed(packed: Tensor, bits: int, count: int) -> None:
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise CompressionError(
            f"unpack got a tensor of type {packed.dtype} and {packed.ndim} axes; allowed is uint8 with one axis."
        )
    if packed.numel() != packed_size(count, bits):
        raise CompressionError(
            f"unpack got {packed.numel()} bytes; {count} values of {bits} bits take {packed_size(count, bits)}."
        )
    used = count * bits % 8
    if used and int(packed[-1]) >> used:
        raise CompressionError(
            f"unpack got padding bits of {int(packed[-1]) >> used:b} after the last value; allowed are zeros only."
        )
