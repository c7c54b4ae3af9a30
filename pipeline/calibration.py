"""Rounding of a whole network, and the error that it causes in each layer, in one pass over a few training images."""

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from basis.conv import SeriesConv2d
from pipeline.quantization import quantized_tensor_name
from quant.backends import Backend
from quant.formats import IntFormat, QuantizedTensor
from quant.gptq import grouped_gptq
from quant.gram import conv_gram, linear_gram

# A Gram matrix of more features than this takes gigabytes; such a layer (VGG's first linear one) is rounded to nearest.
MOST_FEATURES = 8192


@dataclass(frozen=True)
class Rounding:
    """The integers and scales of a network's layers, and what the rounding did to their outputs.

    Attributes:
        layers: Layer name -> integers and scales, for the layers that ran and are small enough.
        errors: Layer name -> relative output error ||Y - Y'|| / ||Y||, without the bias, for the same layers.
    """

    layers: dict[str, QuantizedTensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def round_layers(
    model: nn.Module, images: Tensor, format: IntFormat, backend: Backend, *, rounding: str, seed: int = 0
) -> Rounding:
    """Round every layer, in the order in which they run, and measure how its outputs on the images change.

    Each layer is rounded when the images reach it, so its inputs are those that the rounded layers before it give. It
    keeps its rounded values for the rest of the pass.

    Args:
        model: The network, without fake quantizers; it is left as it is.
        images: Training images without labels, (N, 3, H, W), on the model's device.
        format: The integers' range.
        backend: Its number format stores the integers.
        rounding: ``gptq`` changes the outputs least; ``nearest`` looks at the weights alone.
        seed: Chooses the positions of large feature maps.

    Source:
        Frantar et al. 2023, GPTQ, arXiv 2210.17323.
    """
    found = Rounding()
    network = copy.deepcopy(model).eval()

    def hook(name: str, tensor_name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def round_layer(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            stored = getattr(module, tensor_name)
            if name not in found.layers and stored[0].numel() <= MOST_FEATURES:
                grams = _grams(module, inputs[0].float(), seed + zlib.crc32(name.encode()))
                rounded = _round(stored.detach(), grams, format, backend, rounding)
                found.layers[name] = rounded
                found.errors[name] = _relative_error(stored.detach(), grams, rounded)
                stored.copy_(rounded.dequantize())

        return round_layer

    for name, module in network.named_modules():
        if (tensor_name := quantized_tensor_name(module)) is not None:
            module.register_forward_pre_hook(hook(name, tensor_name))
    network(images)
    return found


def _round(stored: Tensor, grams: Tensor, format: IntFormat, backend: Backend, rounding: str) -> QuantizedTensor:
    if rounding == "nearest":
        return backend.quantize(stored, format)
    chosen = grouped_gptq(stored.flatten(1), grams, format)
    return backend.quantize(chosen.dequantize().view(stored.shape), format, chosen.scale)


def _relative_error(stored: Tensor, grams: Tensor, rounded: QuantizedTensor) -> float:
    values = stored.flatten(1).to(torch.float64).unflatten(0, (len(grams), -1))
    change = values - rounded.dequantize().to(values).flatten(1).view_as(values)
    squares = [float(((rows @ grams) * rows).sum()) for rows in (change, values)]
    return (max(squares[0], 0.0) / squares[1]) ** 0.5 if squares[1] > 0 else 0.0


def _grams(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    if not isinstance(module, nn.Conv2d):
        return linear_gram(x)
    operator = module.operator if isinstance(module, SeriesConv2d) else None
    return conv_gram(module, x, operator=operator, seed=seed)
