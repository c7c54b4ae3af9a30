"""Create Brevitas' quantizers of a bare tensor; all imports of Brevitas are here."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

# Importing Brevitas imports torch's extension builder, which warns of a missing CUDA runtime on every CPU-only machine.
_builder_log = logging.getLogger("torch.utils.cpp_extension")
_builder_level = _builder_log.level
_builder_log.setLevel(logging.ERROR)
from brevitas.core.function_wrapper import TensorClamp  # type: ignore[import-untyped, unused-ignore]  # noqa: E402
from brevitas.quant import Int8WeightPerChannelFloat  # type: ignore[import-untyped, unused-ignore]  # noqa: E402
from brevitas.quant.float import Fp8e4m3Weight  # type: ignore[import-untyped, unused-ignore]  # noqa: E402

_builder_log.setLevel(_builder_level)

__all__ = ["Fp8e4m3Weight", "Int8WeightPerChannelFloat", "TensorClamp", "make_quantizer"]


def make_quantizer(injector: Any, values: Tensor, **choices: Any) -> Any:
    """Create a Brevitas quantizer module for a weight.

    Args:
        injector: One of Brevitas' weight quantizers.
        values: The weight, float32; axis 0 is the output channel.
        choices: Settings that differ from the injector's defaults.
    """
    layer = _Layer(nn.Parameter(values))
    return injector.let(module=layer, tracked_parameter_list=[layer.weight], **choices).tensor_quant


class _Layer(nn.Module):
    """The part of a layer that Brevitas' injector reads: the weight and which of its axes is the output channel."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.out_channels = weight.shape[0]
        self.output_channel_dim = 0
