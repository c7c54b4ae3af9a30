"""Rounding of a whole network, and the error that it causes in each layer, in one pass over a few training images."""

import copy
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from basis.conv import SeriesConv2d
from basis.patches import MOST_FEATURES, samples
from basis.pieces import in_pieces
from basis.portion import Portion
from quant.backends import Backend
from quant.formats import IntFormat, QuantizedTensor
from quant.gptq import gptq
from quant.moments import Moments, conv_moments, conv_targets, linear_moments, linear_targets
from quant.network import quantized_tensor_name
from quant.schemes import Format, StoredTensor
from quant.term_factors import gptq_by_terms


@dataclass(frozen=True)
class Rounding:
    """The stored values of a network's layers, and what the rounding did to their outputs.

    Attributes:
        layers: Layer name -> stored values, for the layers that ran and are small enough.
        errors: Layer name -> relative output error ||Y - Y'|| / ||Y||, without the bias, for the same layers.
    """

    layers: dict[str, StoredTensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def round_layers(
    model: nn.Module,
    images: Tensor,
    format: Format,
    backend: Backend,
    *,
    rounding: str,
    seed: int = 0,
    portion: Portion | None = None,
) -> Rounding:
    """Round every layer, in the order in which they run, and measure how its outputs on the images change.

    Each layer is rounded when the images reach it, so its inputs are those that the rounded layers before it give. It
    keeps its rounded values for the rest of the pass. By gptq its values are first refitted to the outputs of the
    float network, so it also makes up for the rounding before it; integers of a series get a factor for each term.

    Args:
        model: The network, without fake quantizers; it is left as it is.
        images: Training images without labels, (N, 3, H, W), on the model's device.
        format: The number format.
        backend: Its quantizers round.
        rounding: ``gptq`` changes the outputs least; ``nearest`` looks at the weights alone.
        seed: Chooses the positions of large feature maps.
        portion: Where several processes share the images: which of them these are. Every process then gets the
            values, and the errors, that all images give.

    Source:
        Frantar et al. 2023, GPTQ, arXiv 2210.17323.
    """
    network = copy.deepcopy(model).eval()
    layers = {name: layer for name, layer in network.named_modules() if quantized_tensor_name(layer) is not None}
    wanted = _outputs(network, layers, images, seed, portion or Portion.whole(len(images)))
    found = Rounding()

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def round_layer(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            stored = getattr(module, str(quantized_tensor_name(module)))
            if name in wanted:
                layer_seed = seed + zlib.crc32(name.encode())
                moments = _moments(module, inputs[0].float(), wanted.pop(name), layer_seed, portion)
                series = isinstance(module, SeriesConv2d)
                rounded = _round(stored.detach(), moments, format, backend, rounding, series)
                found.layers[name] = rounded
                found.errors[name] = _relative_error(stored.detach(), moments.gram, rounded)
                stored.copy_(rounded.dequantize())

        return round_layer

    for name, layer in layers.items():
        layer.register_forward_pre_hook(hook(name))
    network(images)
    return found


def _outputs(
    network: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, seed: int, portion: Portion
) -> dict[str, Tensor]:
    """What each layer that is small enough gives in the float network at its first run, without its bias."""
    return in_pieces(images, portion, lambda piece, part: _outputs_of(network, layers, piece, seed, part))


def _outputs_of(
    network: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, seed: int, portion: Portion
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in found:
                if isinstance(module, nn.Conv2d):
                    chosen = samples(module, inputs[0], seed=seed + zlib.crc32(name.encode()), portion=portion)
                    found[name] = conv_targets(module, chosen, output)
                else:
                    found[name] = linear_targets(cast(nn.Linear, module), output)

        return keep

    with ExitStack() as hooks:
        for name, layer in layers.items():
            if getattr(layer, str(quantized_tensor_name(layer)))[0].numel() <= MOST_FEATURES:
                hooks.callback(layer.register_forward_hook(hook(name)).remove)
        network(images)
    return found


def _moments(module: nn.Module, x: Tensor, targets: Tensor, seed: int, portion: Portion | None) -> Moments:
    if not isinstance(module, nn.Conv2d):
        return linear_moments(x, targets, portion)
    operator = module.operator if isinstance(module, SeriesConv2d) else None
    chosen = samples(module, x, seed=seed, portion=portion)
    return conv_moments(module, x, chosen, targets, operator, portion)


def _round(
    stored: Tensor, moments: Moments, format: Format, backend: Backend, rounding: str, series: bool
) -> StoredTensor:
    if rounding == "nearest":
        return backend.quantize(stored, format)
    wanted = moments.refit(stored.flatten(1))
    if series and isinstance(format, IntFormat):
        found = gptq_by_terms(wanted.view(stored.shape), moments.gram, format)
        divided = replace(found, terms=None).dequantize()
        return replace(cast(QuantizedTensor, backend.quantize(divided, format, found.scale)), terms=found.terms)
    chosen = gptq(wanted, moments.gram, format)
    return backend.quantize(chosen.dequantize().view(stored.shape), format, chosen.scale)


def _relative_error(stored: Tensor, grams: Tensor, rounded: StoredTensor) -> float:
    values = stored.flatten(1).to(torch.float64).unflatten(0, (len(grams), -1))
    change = values - rounded.dequantize().to(values).flatten(1).view_as(values)
    squares = [float(((rows @ grams) * rows).sum()) for rows in (change, values)]
    return (max(squares[0], 0.0) / squares[1]) ** 0.5 if squares[1] > 0 else 0.0
