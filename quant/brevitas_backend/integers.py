"""Round to integers with Brevitas: its per-channel integer weight quantizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quant.brevitas_backend.injection import Int8WeightPerChannelFloat, ScalingImplType, make_quantizer
from quant.fake_quantizer import FakeQuantizer, ScaledFakeQuantizer
from quant.formats import SMALLEST_SCALE, IntFormat, QuantizedTensor, check_scale, check_weight, per_channel


def quantize(weight: Tensor, format: IntFormat, scale: Tensor | None = None) -> QuantizedTensor:
    """Round to the nearest integers; see `quant.backends.Backend.quantize`."""
    values = check_weight(weight)
    quantizer = _from_absmax(values, format) if scale is None else _with_scale(values, format, scale)
    with torch.no_grad():
        _, scale_view, zero_point, bit_width = quantizer(values)
        integers = quantizer.int_quant.to_int(scale_view, zero_point, bit_width, values)
    return QuantizedTensor(integers.to(torch.int8), scale_view.flatten().clone(), format)


def fake_quantizer(weight: Tensor, format: IntFormat, scale: Tensor | None = None) -> FakeQuantizer:
    """Create a trainable fake quantizer; see `quant.backends.Backend.fake_quantizer`."""
    return _BrevitasFakeQuantizer(weight, format, scale)


class _BrevitasFakeQuantizer(ScaledFakeQuantizer):
    """Brevitas' quantizer with the scale as its parameter: rounding, clamping and their gradients are Brevitas'."""

    def __init__(self, weight: Tensor, format: IntFormat, scale: Tensor | None) -> None:
        super().__init__(format, weight.shape)
        start = quantize(weight, format, scale)
        self.quantizer = _with_scale(check_weight(weight), format, start.scale)

    def scale(self) -> Tensor:
        scaling = self.quantizer.scaling_impl
        one = torch.ones((), device=scaling.value.device)
        return torch.Tensor.flatten(scaling(scaling.value, one))

    def fake_quantize(self, weight: Tensor) -> Tensor:
        values, scale, _, _ = self.quantizer(weight)
        if scale.requires_grad:
            # Brevitas has no gradient scaling; the tensor it returns is the one that its rounding used.
            scale.register_hook(lambda gradient: gradient * self.gradient_factor)
        return torch.as_tensor(values)


class _WholeScale(nn.Module):
    """Replaces Brevitas' division by qmax, so that its scaling parameter is the scale itself, bit for bit."""

    def forward(self, bit_width: Tensor, signed: bool | None = None) -> Tensor:
        return torch.ones_like(bit_width)


def _from_absmax(values: Tensor, format: IntFormat) -> Any:
    """Create Brevitas' quantizer with the scale from each channel's absolute maximum."""
    return _quantizer(values, format, scaling_min_val=SMALLEST_SCALE * format.qmax)


def _with_scale(values: Tensor, format: IntFormat, scale: Tensor) -> Any:
    """Create Brevitas' quantizer with these scales as its parameter."""
    start = check_scale(scale, values.shape[0]).to(values.device).clone()
    return _quantizer(
        values,
        format,
        scaling_impl_type=ScalingImplType.PARAMETER,
        scaling_init=per_channel(start, values.ndim),
        int_scaling_impl=_WholeScale(),
        scaling_min_val=SMALLEST_SCALE,
    )


def _quantizer(values: Tensor, format: IntFormat, **choices: Any) -> Any:
    return make_quantizer(Int8WeightPerChannelFloat, values, bit_width=format.bits, **choices)
