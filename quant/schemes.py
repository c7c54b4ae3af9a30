"""Create number formats by the name of their scheme, and tensors stored in them."""

from __future__ import annotations

from importlib import import_module
from typing import TypeAlias

from torch import Tensor

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor
from quant.minifloat import MinifloatFormat, MinifloatTensor
from quant.registry import SCHEMES
from quant.stepped import SteppedTensor

Format: TypeAlias = IntFormat | MinifloatFormat
FixedTensor: TypeAlias = QuantizedTensor | MinifloatTensor
StoredTensor: TypeAlias = FixedTensor | SteppedTensor


def get_format(scheme: str, bits: int) -> Format:
    """Return the number format of a scheme.

    Args:
        scheme: ``int`` for integers of ``bits`` bits, ``minifloat`` for floats of ``bits`` mantissa bits.
        bits: 2 to 8.

    Raises:
        CompressionError: There is no such scheme or width.
    """
    if scheme not in SCHEMES:
        raise CompressionError(f"There is no number format named {scheme!r}; allowed: {', '.join(SCHEMES)}")
    module, name = SCHEMES[scheme]
    format: Format = getattr(import_module(module), name)(bits)
    return format


def stored_tensor(integers: Tensor, scale: Tensor | None, format: Format) -> FixedTensor:
    """Build a stored tensor from its parts.

    Args:
        integers: int8 or, for minifloats, int16; see ``QuantizedTensor`` and ``MinifloatTensor``.
        scale: float32, (out_channels,), for integers; None for minifloats.
        format: The number format.

    Raises:
        CompressionError: A scale is missing or one too many, or the parts do not fit together.
    """
    if isinstance(format, IntFormat) and scale is not None:
        return QuantizedTensor(integers, scale, format)
    if isinstance(format, MinifloatFormat) and scale is None:
        return MinifloatTensor(integers, format)
    got, allowed = ("no scale", "one") if scale is None else ("a scale", "none")
    raise CompressionError(f"A tensor of the scheme {format.scheme} got {got}; allowed: {allowed}")
