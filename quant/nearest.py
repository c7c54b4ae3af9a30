"""Round the stored values of a layer to nearest."""

from __future__ import annotations

from torch import nn

from basis.layers import stored_values
from basis.parametric.conv import ParametricConv2d
from quant.backends import Backend
from quant.parametric import quantize_parameters
from quant.schemes import FixedTensor, Format


def quantize_nearest(module: nn.Module, format: Format, backend: Backend) -> FixedTensor:
    """Round a layer's stored values to the nearest values of a format.

    Args:
        module: A convolution or a linear layer without fake quantizer.
        format: The number format.
        backend: Its quantizers round.

    Raises:
        CompressionError: The backend lacks the format.
        NumericalError: A value is not finite.
    """
    stored = stored_values(module).detach()
    if isinstance(module, ParametricConv2d):
        return quantize_parameters(module, stored, format, backend)
    return backend.quantize(stored, format)
