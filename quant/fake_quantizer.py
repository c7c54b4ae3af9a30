"""What the fake quantizers of all backends have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor, check_scale, check_weight, per_channel
from quant.schemes import StoredTensor


class FakeQuantizer(nn.Module, ABC):
    """Rounds a weight to the values of a number format in the forward pass and lets gradients through.

    It is a parametrization: the weight itself stays float.

    Args:
        shape: the weight's shape; axis 0 is the output channel.
    """

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def fake_quantize(self, weight: Tensor) -> Tensor:
        """float32 of the weight's shape -> values of the format, the same shape, differentiable."""

    @abstractmethod
    def quantized(self, weight: Tensor) -> StoredTensor:
        """What `forward` makes of this weight, as it is stored; dequantized, it is the float32 result of `forward`.

        Raises:
            CompressionError: if the shape is another one, or training made a weight or a scale NaN or infinite.
        """

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantizes a weight.

        Args:
            weight: floating point, of the shape given at construction.

        Returns:
            values of the format, same shape and type; computed in float32 also under autocast.

        Raises:
            CompressionError: if the shape is another one.
        """
        if tuple(weight.shape) != self.shape:
            raise CompressionError(
                f"The fake quantizer got a weight of shape {tuple(weight.shape)}; allowed is {self.shape}."
            )
        with torch.autocast(weight.device.type, enabled=False):
            return self.fake_quantize(weight.to(torch.float32)).to(weight.dtype)


class ScaledFakeQuantizer(FakeQuantizer):
    """Rounds to integers x scale, where the scale of each output channel is learned.

    Source: LSQ (Esser et al. 2020, arXiv 1902.08153): the weight gets the straight-through gradient inside the range,
    the scale gets its own, multiplied by `gradient_factor`.

    Args:
        format: the integers' range.
        shape: the weight's shape; axis 0 is the output channel.
    """

    def __init__(self, format: IntFormat, shape: torch.Size) -> None:
        super().__init__(shape)
        self.format = format

    @property
    def gradient_factor(self) -> float:
        """1 / sqrt(weights per channel x qmax): keeps steps of scales in proportion to those of weights (LSQ, 2.2)."""
        return 1.0 / math.sqrt(math.prod(self.shape[1:]) * self.format.qmax)

    @abstractmethod
    def scale(self) -> Tensor:
        """The positive scales that the forward pass uses: float32, shape (out_channels,)."""

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedTensor:
        """The integers and scales that `forward` uses for this weight; see `FakeQuantizer.quantized`."""
        scale = check_scale(self.scale(), self.shape[0]).clone()
        values = self(check_weight(weight))
        # The quotient is within a few float32 roundings of an integer of at most 127, so rounding recovers it exactly.
        integers = (values / per_channel(scale, values.ndim)).round().to(torch.int8)
        return QuantizedTensor(integers, scale, self.format)
