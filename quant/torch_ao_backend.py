"""Quantize with torch.ao: its per-channel observer and fake-quantization kernels.

PyTorch is moving torch.ao's eager quantization to the package torchao, which has the same observer; either one serves.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from basis.errors import CompressionError
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
from quant.schemes import Format


def quantize(weight: Tensor, format: Format, scale: Tensor | None = None) -> QuantizedTensor:
    """Round to the nearest integers; see ``quant.backends.Backend.quantize``.

    The kernels multiply by the inverse scale, so a value within float32 rounding of a tie may go to the other side.
    """
    return _rounded(weight, _integers_only(format), scale)


def fake_quantizer(weight: Tensor, format: Format, scale: Tensor | None = None) -> FakeQuantizer:
    """Create a trainable fake quantizer; see ``quant.backends.Backend.fake_quantizer``."""
    return _TorchAoFakeQuantizer(weight, _integers_only(format), scale)


def _integers_only(format: Format) -> IntFormat:
    if not isinstance(format, IntFormat):
        raise CompressionError(f"The backend torch.ao got the scheme {format.scheme}; allowed: {IntFormat.scheme}")
    return format


def _rounded(weight: Tensor, format: IntFormat, scale: Tensor | None) -> QuantizedTensor:
    values = check_weight(weight)
    scale = _observed_scale(values, format) if scale is None else check_scale(scale, len(values)).to(values.device)
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(values, scale, zero_point, 0, format.qmin, format.qmax)
    integers = (rounded / per_channel(scale, values.ndim)).round().to(torch.int8)
    return QuantizedTensor(integers, scale.clone(), format)


class _TorchAoFakeQuantizer(ScaledFakeQuantizer):
    """The kernel of torch.ao's learnable fake quantization, which has the gradient factor built in."""

    zero_point: Tensor

    def __init__(self, weight: Tensor, format: IntFormat, scale: Tensor | None) -> None:
        super().__init__(_rounded(weight, format, scale))
        self.register_buffer("zero_point", torch.zeros_like(self.learned_scale.detach()), persistent=False)

    def fake_quantize(self, weight: Tensor) -> Tensor:
        # One row a channel: the kernel's gradient is wrong for weights of a single axis.
        values: Tensor = torch._fake_quantize_learnable_per_channel_affine(
            weight.reshape(len(weight), -1),
            self.scale(),
            self.zero_point,
            0,
            self.format.qmin,
            self.format.qmax,
            self.gradient_factor,
        )
        return values.reshape(weight.shape)


def _observer_class() -> Any:
    """Import PerChannelMinMaxObserver from PyTorch or, if PyTorch no longer has it, from torchao."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module = import_module("torch.ao.quantization.observer")
        except ImportError:
            module = import_module("torchao.quantization.pt2e.observer")
    return module.PerChannelMinMaxObserver


def _observed_scale(values: Tensor, format: IntFormat) -> Tensor:
    """Return scales (out_channels,) from torch.ao's observer, absolute maximum / qmax, on the grid."""
    observer = _observer_class()(
        ch_axis=0,
        dtype=torch.int8,
        qscheme=torch.per_channel_symmetric,
        quant_min=format.qmin,
        quant_max=format.qmax,
        eps=SMALLEST_SCALE,
    ).to(values.device)
    observer(values.reshape(len(values), -1))
    return nearest_scale(values, observer.calculate_qparams()[0], format)
