"""The number formats by the name of their scheme, and tensors stored in any of them."""

from __future__ import annotations

from importlib import import_module
from typing import TypeAlias

from torch import Tensor

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor
from quant.minifloat import MinifloatFormat, MinifloatTensor
from quant.registry import SCHEMES

Format: TypeAlias = IntFormat | MinifloatFormat
StoredTensor: TypeAlias = QuantizedTensor | MinifloatTensor


def get_format(scheme: str, bits: int) -> Format:
    """The format of a scheme.

    Args:
        scheme: `int` for integers of `bits` bits, `minifloat` for floats of `bits` mantissa bits.
        bits: 2 to 8.

    Raises:
        CompressionError: if there is no such scheme or width.
    """
    if scheme not in SCHEMES:
        raise CompressionError(f"There is no number format named {scheme!r}; allowed are {', '.join(SCHEMES)}.")
    module, name = SCHEMES[scheme]
    format: Format = getattr(import_module(module), name)(bits)
    return format


def stored_tensor(integers: Tensor, scale: Tensor | None, format: Format) -> StoredTensor:
    """Puts together what is stored of a tensor.

    Args:
        integers: int8 or, for minifloats, int16; see `QuantizedTensor` and `MinifloatTensor`.
        scale: float32, (out_channels,), for integers; None for minifloats.
        format: the number format.

    Raises:
        CompressionError: if a scale is missing or one too many, or the parts do not fit together.
    """
    if isinstance(format, IntFormat) and scale is not None:
        return QuantizedTensor(integers, scale, format)
    if isinstance(format, MinifloatFormat) and scale is None:
        return MinifloatTensor(integers, format)
    got, allowed = ("no scale", "one") if scale is None else ("a scale", "none")
    raise CompressionError(f"A tensor of the scheme {format.scheme} got {got}; allowed is {allowed}.")
