"""Quantization of a whole network: which tensors it stores in few bits, and their integers."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d
from quant.backends import Backend
from quant.fake_quantizer import FakeQuantizer
from quant.formats import IntFormat, QuantizedTensor


def quantized_tensor_name(module: nn.Module) -> str | None:
    """The tensor that a layer stores in integers: coefficients of a series, weight of a convolution or linear layer."""
    if isinstance(module, SeriesConv2d):
        return "coefficients"
    return "weight" if isinstance(module, nn.Conv2d | nn.Linear) else None


def quantize_network(
    model: nn.Module, format: IntFormat, backend: Backend, rounded: Mapping[str, QuantizedTensor] | None = None
) -> dict[str, QuantizedTensor]:
    """Give every coefficient tensor and every remaining kernel its integers; the network is left as it is.

    A layer with a fake quantizer gets exactly the integers and scales that it was trained with; any other is rounded
    to the nearest, with the scale of each output channel from its absolute maximum.

    Args:
        model: The network, with or without fake quantizers.
        format: The integers' range.
        backend: Brevitas or torch.ao.
        rounded: Layer name -> integers that are found already.

    Returns:
        Layer name -> integers and scales, in network order; a shared layer appears once.
    """
    found = rounded or {}
    return {
        name: found[name] if name in found else _integers(module, tensor_name, format, backend)
        for name, module in model.named_modules()
        if (tensor_name := quantized_tensor_name(module)) is not None
    }


def _integers(module: nn.Module, tensor_name: str, format: IntFormat, backend: Backend) -> QuantizedTensor:
    if parametrize.is_parametrized(module, tensor_name):
        chain = cast(nn.ModuleDict, module.parametrizations)[tensor_name]
        quantizer = cast(parametrize.ParametrizationList, chain)[-1]
        if isinstance(quantizer, FakeQuantizer):
            return quantizer.quantized(cast(Tensor, chain.original))
    return backend.quantize(getattr(module, tensor_name), format)


def attach_fake_quantizers(
    model: nn.Module, format: IntFormat, backend: Backend, rounded: Mapping[str, QuantizedTensor] | None = None
) -> nn.Module:
    """Let a network train through its integers, in place; master weights stay float and scales are learned.

    Args:
        model: The network.
        format: The integers' range.
        backend: Brevitas or torch.ao.
        rounded: Layer name -> integers and scales from which training starts; other layers start from nearest.

    Returns:
        The network.
    """
    for name, module in list(model.named_modules()):
        tensor_name = quantized_tensor_name(module)
        if tensor_name is not None:
            weight, start = getattr(module, tensor_name), (rounded or {}).get(name)
            if start is not None:
                weight.data.copy_(start.dequantize())
            quantizer = backend.fake_quantizer(weight, format, None if start is None else start.scale)
            parametrize.register_parametrization(module, tensor_name, quantizer)
    return model
