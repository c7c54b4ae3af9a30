"""Convert a layer's stored values to codes and scales, and back, in every number format."""

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
    """Return a number format.

    Args:
        scheme: A name in ``quant.registry.SCHEMES``.
        bits: The width of the option ``--bits``; the stored width of minifloats is larger.

    Raises:
        CompressionError: The name or the width is unknown.
    """
    if scheme not in SCHEMES:
        raise CompressionError(f"its number format {scheme!r} is unknown; allowed: {', '.join(SCHEMES)}")
    return get_format(scheme, bits)


def code_bytes(format: Format, shape: Sequence[int]) -> int:
    """Return the number of bytes of the codes of a tensor of this shape."""
    return packed_size(math.prod(shape), format.stored_bits)


def scale_count(format: Format, shape: Sequence[int]) -> int:
    """Return the number of float32 scales: one per output channel for integers, none for minifloats."""
    return shape[0] if isinstance(format, IntFormat) else 0


def encode(values: StoredTensor) -> tuple[Tensor, Tensor]:
    """Return codes, (bytes,) uint8, packed as in ``quant.packing``, and scales, (channels,) or (0,), float32."""
    scales = torch.empty(0) if values.scale is None else values.scale
    return pack(values.integers, values.format.stored_bits), scales


def decode(
    codes: Tensor,
    scales: Tensor,
    format: Format,
    shape: Sequence[int],
    terms: Sequence[Sequence[int]] | None = None,
) -> StoredTensor:
    """Invert ``encode``.

    Args:
        codes: (bytes,), uint8.
        scales: (channels,), float32; empty for minifloats.
        format: The number format.
        shape: Shape of the stored values.
        terms: Exponents of the factors of a series' terms, (nh, nw); None for no factors.

    Raises:
        CompressionError: A code or a scale is not allowed, or ``terms`` has not one exponent for each term.
    """
    integers = unpack(codes, format.stored_bits, shape)
    if not isinstance(format, IntFormat):
        return stored_tensor(integers, None, format)
    return QuantizedTensor(integers, scales, format, None if terms is None else torch.tensor(terms, dtype=torch.int8))
