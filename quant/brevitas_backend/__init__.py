"""Quantize with Brevitas: its weight quantizers on bare tensors, not its layers."""

from __future__ import annotations

from torch import Tensor

from quant.brevitas_backend import floats, integers
from quant.fake_quantizer import FakeQuantizer
from quant.minifloat import MinifloatFormat
from quant.schemes import FixedTensor, Format


def quantize(weight: Tensor, format: Format, scale: Tensor | None = None) -> FixedTensor:
    """Round to the nearest values of the format; see ``quant.backends.Backend.quantize``."""
    if isinstance(format, MinifloatFormat):
        return floats.quantize(weight, format, scale)
    return integers.quantize(weight, format, scale)


def fake_quantizer(weight: Tensor, format: Format, scale: Tensor | None = None) -> FakeQuantizer:
    """Create a trainable fake quantizer; see ``quant.backends.Backend.fake_quantizer``."""
    if isinstance(format, MinifloatFormat):
        return floats.fake_quantizer(weight, format, scale)
    return integers.fake_quantizer(weight, format, scale)
