"""How a layer's stored values become codes and scales, and back, in any number format."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor
from quant.packing import pack, packed_size, unpack
from quant.registry import SCHEMES
from quant.schemes import Format, StoredTensor, get_format, stored_tensor


def format_named(scheme: str, bits: int) -> Format:
    """Find a number format; ``bits`` is the width as the user gives it.

    Raises:
        CompressionError: There is none of that name or width.
    """
    if scheme not in SCHEMES:
        raise CompressionError(f"its number format {scheme!r} is unknown; allowed: {', '.join(SCHEMES)}")
    return get_format(scheme, bits)


def code_bytes(format: Format, shape: Sequence[int]) -> int:
    """Bytes that the codes of so many values take."""
    return packed_size(math.prod(shape), format.stored_bits)


def scale_count(format: Format, shape: Sequence[int]) -> int:
    """How many float32 scales go with them: one per output channel of integers, none of minifloats."""
    return shape[0] if isinstance(format, IntFormat) else 0


def encode(values: StoredTensor) -> tuple[Tensor, Tensor]:
    """Values -> codes, uint8, and scales, float32, both one-dimensional."""
    scales = torch.empty(0) if values.scale is None else values.scale
    return pack(values.integers, values.format.stored_bits), scales


def decode(
    codes: Tensor,
    scales: Tensor,
    format: Format,
    shape: Sequence[int],
    terms: Sequence[Sequence[int]] | None = None,
) -> StoredTensor:
    """The inverse of ``encode``; ``terms`` are the exponents of a series' terms.

    Raises:
        CompressionError: A code or a scale is not allowed, or the exponents are not one for each term.
    """
    integers = unpack(codes, format.stored_bits, shape)
    if not isinstance(format, IntFormat):
        return stored_tensor(integers, None, format)
    return QuantizedTensor(integers, scales, format, None if terms is None else torch.tensor(terms, dtype=torch.int8))
