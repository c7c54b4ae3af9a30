"""Base classes of the fake quantizers of all backends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.errors import CompressionError
from basis.layers import stored_tensor_name, stored_values
from quant.formats import QuantizedTensor, check_scale, check_weight, per_channel
from quant.grid import nearest_on_grid
from quant.schemes import StoredTensor


class FakeQuantizer(nn.Module, ABC):
    """Rounds a weight to the values of a number format in the forward pass and lets gradients through.

    It is a parametrization: the weight itself stays float.

    Args:
        shape: The weight's shape; axis 0 is the output channel.

    Attributes:
        learning_rate_share: Share of the learning rate for the float weight and the scales; docs/training.md.
        decays: True if weight decay is meant for the float weight.
    """

    learning_rate_share: float = 0.05
    decays: bool = True

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def fake_quantize(self, weight: Tensor) -> Tensor:
        """Round a float32 weight to values of the format, same shape, differentiably."""

    @abstractmethod
    def quantized(self, weight: Tensor) -> StoredTensor:
        """Return the stored form of this weight; dequantized, it equals the float32 result of ``forward``.

        Raises:
            CompressionError: The shape differs from the shape at construction.
            NumericalError: A weight or a scale is NaN or infinite after training.
        """

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantize a weight.

        Args:
            weight: Floating point, of the shape given at construction.

        Returns:
            Values of the format, same shape and type; computed in float32 also under autocast.

        Raises:
            CompressionError: The shape differs from the shape at construction.
        """
        if tuple(weight.shape) != self.shape:
            raise CompressionError(
                f"The fake quantizer got a weight of shape {tuple(weight.shape)}; allowed: {self.shape}"
            )
        with torch.autocast(weight.device.type, enabled=False):
            return self.fake_quantize(weight.to(torch.float32)).to(weight.dtype)


class ScaledFakeQuantizer(FakeQuantizer):
    """Rounds to integers x scale, where the scale of each output channel is learned.

    Source: LSQ (Esser et al. 2020, arXiv 1902.08153): the weight gets the straight-through gradient inside the range,
    the scale gets its own, multiplied by ``gradient_factor``. The learned scale is a float; the forward pass uses the
    nearest grid value, and the gradient passes straight through to the float.

    Args:
        start: The integers and scales from which training starts.
    """

    def __init__(self, start: QuantizedTensor) -> None:
        super().__init__(start.integers.shape)
        self.format = start.format
        self.learned_scale = nn.Parameter(start.scale.clone())

    @property
    def gradient_factor(self) -> float:
        """1 / sqrt(weights per channel x qmax): keeps steps of scales in proportion to those of weights (LSQ, 2.2)."""
        return 1.0 / math.sqrt(math.prod(self.shape[1:]) * self.format.qmax)

    def scale(self) -> Tensor:
        """Return the scales of the forward pass, values of the grid: float32, shape (out_channels,)."""
        # A step of the optimizer may carry a small scale below zero; its magnitude is what counts.
        learned = self.learned_scale.abs()
        # The difference is exactly zero and carries the gradient.
        return nearest_on_grid(learned.detach()) + (learned - learned.detach())

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedTensor:
        """Return the integers and scales of ``forward`` for this weight; see ``FakeQuantizer.quantized``."""
        scale = check_scale(self.scale(), self.shape[0]).clone()
        values = self(check_weight(weight))
        # The quotient is within a few float32 roundings of an integer of at most 127, so rounding recovers it exactly.
        integers = (values / per_channel(scale, values.ndim)).round().to(torch.int8)
        return QuantizedTensor(integers, scale, self.format)


def attach(model: nn.Module, quantizers: Mapping[int, FakeQuantizer]) -> None:
    """Parametrize the stored tensors of a network by fake quantizers, in place; layers that share one share both.

    Args:
        model: The network.
        quantizers: ``id`` of a stored tensor -> its fake quantizer; layers with other tensors stay as they are.
    """
    for module in list(model.modules()):
        tensor_name = stored_tensor_name(module)
        quantizer = None if tensor_name is None else quantizers.get(id(stored_values(module)))
        if tensor_name is not None and quantizer is not None:
            parametrize.register_parametrization(module, tensor_name, quantizer)


def attached(module: nn.Module) -> tuple[FakeQuantizer, nn.Parameter] | None:
    """Return the fake quantizer of a layer's stored tensor and the float parameter that it rounds; None without one."""
    tensor_name = str(stored_tensor_name(module))
    if not parametrize.is_parametrized(module, tensor_name):
        return None
    chain = cast(nn.ModuleDict, module.parametrizations)[tensor_name]
    quantizer = cast(parametrize.ParametrizationList, chain)[-1]
    return (quantizer, cast(nn.Parameter, chain.original)) if isinstance(quantizer, FakeQuantizer) else None
