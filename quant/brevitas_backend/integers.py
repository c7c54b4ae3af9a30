"""Round to integers with Brevitas: its per-channel integer weight quantizer, with scales on the grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quant.brevitas_backend.injection import Int8WeightPerChannelFloat, TensorClamp, make_quantizer
from quant.fake_quantizer import FakeQuantizer, ScaledFakeQuantizer
from quant.formats import (
    SMALLEST_SCALE,
    IntFormat,
    QuantizedTensor,
    check_scale,
    check_weight,
    nearest_scale,
    per_channel,
)


def quantize(weight: Tensor, format: IntFormat, scale: Tensor | None = None) -> QuantizedTensor:
    """Round to the nearest integers; see ``quant.backends.Backend.quantize``."""
    values = check_weight(weight)
    quantizer = _quantizer(values, format)
    with torch.no_grad():
        _, absmax, zero_point, bit_width = quantizer(values)
        if scale is None:
            scale = nearest_scale(values, absmax.flatten(), format)
        scale = check_scale(scale, len(values)).to(values.device)
        integers = quantizer.int_quant.to_int(per_channel(scale, values.ndim), zero_point, bit_width, values)
    return QuantizedTensor(integers.to(torch.int8), scale.clone(), format)


def fake_quantizer(weight: Tensor, format: IntFormat, scale: Tensor | None = None) -> FakeQuantizer:
    """Create a trainable fake quantizer; see ``quant.backends.Backend.fake_quantizer``."""
    return _BrevitasFakeQuantizer(weight, format, scale)


class _BrevitasFakeQuantizer(ScaledFakeQuantizer):
    """Brevitas' quantizer of given scales: rounding, clamping and their gradients are Brevitas'."""

    zero_point: Tensor
    bit_width: Tensor

    def __init__(self, weight: Tensor, format: IntFormat, scale: Tensor | None) -> None:
        super().__init__(quantize(weight, format, scale))
        self.int_quant = _quantizer(check_weight(weight), format).int_quant
        for name, value in (("zero_point", 0), ("bit_width", format.bits)):
            self.register_buffer(name, torch.tensor(float(value), device=weight.device), persistent=False)

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """See ``FakeQuantizer``."""
        scale = self.scale()
        if scale.requires_grad:
            # Brevitas has no gradient scaling.
            scale.register_hook(lambda gradient: gradient * self.gradient_factor)
        return torch.as_tensor(self.int_quant(per_channel(scale, weight.ndim), self.zero_point, self.bit_width, weight))


def _quantizer(values: Tensor, format: IntFormat) -> Any:
    """Create Brevitas' quantizer; its scale is each channel's absolute maximum / qmax."""
    return make_quantizer(
        Int8WeightPerChannelFloat,
        values,
        bit_width=format.bits,
        scaling_min_val=SMALLEST_SCALE * format.qmax,
        # LSQ has no gradient outside the range. Brevitas lets it through with a scale from the weight's maximum.
        tensor_clamp_impl=TensorClamp,
    )
