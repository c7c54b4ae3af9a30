"""Round a whole network, and measure the error in each layer, in one pass over a few training images."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from basis import progress
from basis.activations import layer_seeds
from basis.conv import SeriesConv2d
from basis.copying import copy_network
from basis.gram_statistics import GramStatistics
from basis.layers import hessian_layers, layer_operator, stored_layers, stored_values
from basis.modes import evaluating, without_autocast
from basis.parts import WholeInputs
from basis.patches import MAX_FEATURES
from basis.routing import holds_on_all_ranks, samples_of, warn_of_routing
from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard
from quant.backends import Backend
from quant.float_outputs import FloatOutputs
from quant.formats import IntFormat, QuantizedTensor
from quant.gptq import gptq
from quant.hessian import conv_hessian, linear_hessian, refit
from quant.nearest import quantize_nearest
from quant.network import nearest_weights
from quant.other_weights import set_weights
from quant.schemes import FixedTensor, Format
from quant.term_factors import gptq_by_terms


@dataclass(frozen=True)
class Rounding:
    """The stored values of a network's layers, and the output errors of the rounding.

    Attributes:
        layers: Layer name -> stored values, for the layers that ran and for those that are not regular or too large.
        errors: Layer name -> relative output error ||Y - Y'|| / ||Y||, without the bias. Layers that are not regular,
            too large or not reached are left out, and so are errors that are not finite.
    """

    layers: dict[str, FixedTensor] = field(default_factory=dict)
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
    shard: CalibrationShard | None = None,
    sampling: SamplingConfig = DEFAULT_SAMPLING,
    max_features: int = MAX_FEATURES,
) -> Rounding:
    """Round every layer, in the order in which they run, and measure the change of its outputs on the images.

    Each layer is rounded when the images reach it, so its inputs come from the rounded layers before it. It keeps its
    rounded values for the rest of the pass. With gptq, its values are first refitted to the outputs of the float
    network, which also compensates for the rounding before it. Integers of a series get a factor for each term. Layers
    that are not regular, whose inputs do not describe their outputs, and large layers are rounded to nearest.

    Args:
        model: The network, without fake quantizers; it is left as it is.
        images: Training images without labels, (N, C, H, W), on the model's device.
        format: The number format.
        backend: Its quantizers round.
        rounding: ``gptq`` (``quant.gptq``) minimizes the change of the outputs; ``nearest`` rounds the weights alone.
        seed: Seed of the sampled positions of large feature maps.
        shard: Calibration shard of this rank; None if the rank holds all images. Every rank returns the values, and the
            errors, of all images.
        sampling: Sizes of samples and chunks.
        max_features: Features of the largest Hessian.

    Raises:
        CompressionError: The backend does not have the format.
        NumericalError: A weight, or an input or output of a layer, is not finite, or a Hessian cannot be factored.
    """
    network = evaluating(copy_network(model))
    seeds = layer_seeds(hessian_layers(network, max_features), seed)
    wanted = FloatOutputs(network, seeds, images, shard or CalibrationShard.whole(len(images)), sampling)
    found, whole = Rounding(), WholeInputs(network, images)
    set_weights(network, {name: each.dequantize() for name, each in nearest_weights(network, format, backend).items()})

    @torch.no_grad()  # a forward may enable gradients
    def on_input(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if whole.running or (outputs := wanted.pop(name)) is None:  # a later run
            return
        x = whole.of(module, inputs[0])
        stored, part = stored_values(module), shard or CalibrationShard.whole(len(images))
        with progress.layer(name), without_autocast(stored.device):
            hessian = _hessian(module, x.float(), outputs, seeds[name], part, sampling)
            if hessian is None:
                warn_of_routing(name)
                return
            if rounding != "nearest":
                hessian.check_finite(name)
            series = isinstance(module, SeriesConv2d)
            rounded = found.layers[name] = _round(stored.detach(), hessian, format, backend, rounding, series)
            error = _relative_error(stored.detach(), hessian.gram, rounded)
            if math.isfinite(error):
                found.errors[name] = error
            stored.copy_(rounded.dequantize())

    for name, layer in stored_layers(network).items():
        if name in seeds:
            layer.register_forward_pre_hook(partial(on_input, name))
        else:  # before the pass, in which its forward may have another weight
            found.layers[name] = quantize_nearest(layer, format, backend)
            stored_values(layer).copy_(found.layers[name].dequantize())
    network(images)
    return found


def _hessian(
    module: nn.Module,
    x: Tensor,
    targets: Tensor,
    seed: int,
    shard: CalibrationShard,
    sampling: SamplingConfig,
) -> GramStatistics | None:
    """Compute the Hessian of a layer; None if its inputs are not of the images of the targets, on any rank."""
    if not isinstance(module, nn.Conv2d):
        alike = x[..., 0].numel() == len(targets)
        return linear_hessian(x, targets, shard) if holds_on_all_ranks(alike, shard) else None
    chosen = samples_of(targets.shape[1], module, x, seed=seed, shard=shard, sampling=sampling)
    return conv_hessian(module, x, chosen, targets, layer_operator(module), shard) if chosen else None


def _round(
    stored: Tensor, hessian: GramStatistics, format: Format, backend: Backend, rounding: str, series: bool
) -> FixedTensor:
    if rounding == "nearest":
        return backend.quantize(stored, format)
    wanted = refit(hessian, stored.flatten(1))
    if series and isinstance(format, IntFormat):
        found = gptq_by_terms(wanted.view(stored.shape), hessian.gram, format)
        divided = replace(found, terms=None).dequantize()
        return replace(cast(QuantizedTensor, backend.quantize(divided, format, found.scale)), terms=found.terms)
    chosen = gptq(wanted, hessian.gram, format)
    return backend.quantize(chosen.dequantize().view(stored.shape), format, chosen.scale)


def _relative_error(stored: Tensor, grams: Tensor, rounded: FixedTensor) -> float:
    values = stored.flatten(1).float().unflatten(0, (len(grams), -1))
    change = values - rounded.dequantize().to(values).flatten(1).view_as(values)
    grams = grams.float()  # the products take half of the time, and their errors are far below the figure's digits
    squares = [float(((rows @ grams) * rows).sum(dtype=torch.float64)) for rows in (change, values)]
    if not all(map(math.isfinite, squares)):
        return math.nan
    return (max(squares[0], 0.0) / squares[1]) ** 0.5 if squares[1] > 0 else 0.0
