"""Round to minifloats with Brevitas: its float weight quantizer without a scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from basis.errors import CompressionError
from quant.brevitas_backend.injection import Fp8e4m3Weight, make_quantizer
from quant.fake_quantizer import FakeQuantizer
from quant.formats import check_weight
from quant.minifloat import EXPONENT_BITS, MinifloatFormat, MinifloatTensor, encode


def quantize(weight: Tensor, format: MinifloatFormat, scale: Tensor | None = None) -> MinifloatTensor:
    """Round to the nearest minifloats; see ``quant.backends.Backend.quantize``."""
    values = check_weight(weight)
    _refuse_scale(scale)
    with torch.no_grad():
        rounded = _quantizer(values, format)(values)[0]
    return MinifloatTensor(encode(rounded, format), format)


def fake_quantizer(weight: Tensor, format: MinifloatFormat, scale: Tensor | None = None) -> FakeQuantizer:
    """Create a fake quantizer without parameters; see ``quant.backends.Backend.fake_quantizer``."""
    _refuse_scale(scale)
    return _BrevitasFloatFakeQuantizer(check_weight(weight), format)


class _BrevitasFloatFakeQuantizer(FakeQuantizer):
    """Brevitas' float quantizer: rounding, saturation and their gradients are Brevitas'.

    Its gradient is straight-through times rounded / weight, which lies within 2^-(bits + 1) of one for normal numbers.
    """

    def __init__(self, values: Tensor, format: MinifloatFormat) -> None:
        super().__init__(values.shape)
        self.format = format
        self.quantizer = _quantizer(values, format)

    def fake_quantize(self, weight: Tensor) -> Tensor:
        return torch.as_tensor(self.quantizer(weight)[0])

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> MinifloatTensor:
        values = self(check_weight(weight))
        return MinifloatTensor(encode(values, self.format), self.format)


def _refuse_scale(scale: Tensor | None) -> None:
    if scale is not None:
        raise CompressionError(f"Minifloats got a scale of shape {tuple(scale.shape)}; allowed: none")


def _quantizer(values: Tensor, format: MinifloatFormat) -> Any:
    return make_quantizer(
        Fp8e4m3Weight,  # the one of Brevitas' that differs from ours only in its widths
        values,
        bit_width=format.stored_bits,
        exponent_bit_width=EXPONENT_BITS,
        mantissa_bit_width=format.bits,
    )
