"""Error-compensating rounding of a whole network, in one pass over a few training images."""

import copy
import zlib
from collections.abc import Callable

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


@torch.no_grad()
def compensate(
    model: nn.Module, images: Tensor, format: IntFormat, backend: Backend, *, seed: int = 0
) -> dict[str, QuantizedTensor]:
    """Round every layer so that its outputs on the images change least (gptq), in the order in which they run.

    Each layer is rounded when the images reach it, so its inputs are those that the rounded layers before it give. It
    keeps its rounded values for the rest of the pass.

    Args:
        model: The network, without fake quantizers; it is left as it is.
        images: Training images without labels, (N, 3, H, W), on the model's device.
        format: The integers' range.
        backend: Its number format stores the integers.
        seed: Chooses the positions of large feature maps.

    Returns:
        Layer name -> integers and scales, for the layers that ran and are small enough; the others are absent.

    Source:
        Frantar et al. 2023, GPTQ, arXiv 2210.17323.
    """
    rounded: dict[str, QuantizedTensor] = {}
    network = copy.deepcopy(model).eval()

    def hook(name: str, tensor_name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def round_layer(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            stored = getattr(module, tensor_name)
            if name not in rounded and stored[0].numel() <= MOST_FEATURES:
                grams = _grams(module, inputs[0].float(), seed + zlib.crc32(name.encode()))
                found = grouped_gptq(stored.detach().reshape(len(stored), -1), grams, format)
                values = found.dequantize().view(stored.shape)
                rounded[name] = backend.quantize(values, format, found.scale)
                stored.copy_(values)

        return round_layer

    for name, module in network.named_modules():
        if (tensor_name := quantized_tensor_name(module)) is not None:
            module.register_forward_pre_hook(hook(name, tensor_name))
    network(images)
    return rounded


def _grams(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    if not isinstance(module, nn.Conv2d):
        return linear_gram(x)
    operator = module.operator if isinstance(module, SeriesConv2d) else None
    return conv_gram(module, x, operator=operator, seed=seed)
