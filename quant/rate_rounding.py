"""Round a whole network to a number of bits, in passes over the calibration images.

1. ``OriginalPass``: one pass over the original network records the outputs that every layer should keep.
2. ``measure_layers``: a second pass and a backward pass measure sensitivities and freedoms, once for all targets.
3. ``round_network``: one pass over the compressed network rounds layer after layer, for one target.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from basis.activations import Constrain, LayerwiseFit, layer_seeds
from basis.gram_statistics import GramStatistics
from basis.layers import is_regular, stored_layers, stored_values
from basis.modes import evaluation_mode
from basis.original_outputs import OriginalOutputs, original_outputs
from basis.patches import MAX_FEATURES
from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard
from quant.grid import ceiling_exponents, on_grid
from quant.other_weights import other_weights, set_weights
from quant.rate import (
    LayerMeasurement,
    RatePlan,
    columns_hessian,
    entropy_bits,
    measure_freedoms,
    nearest_to_steps,
    round_to_steps,
)
from quant.sensitivity import output_sensitivities, weights_in_use
from quant.stepped import SteppedTensor

RIDGE: Final = 1e-3
"""Ridge of the refit of each layer, a share of the mean diagonal of its Gram matrix."""
MAX_CORRECTION: Final = 8.0
"""Largest change of ``16 log2(c)`` in later layers that makes up for wrong predictions in earlier ones: half an octave.
"""
MIN_SENSITIVITY: Final = 1e-12
"""Least sensitivity of a layer as a share of the largest: a layer without any effect still gets steps."""
_QMAX: Final = 127  # largest integer of a layer that does not run


@dataclass(frozen=True)
class RoundedNetwork:
    """A network whose layers hold rounded values.

    Attributes:
        model: The network: its layers, biases and running means are those of the rounding.
        layers: Layer name -> stored values; and parameter name -> stored values, see ``coded_weights``.
        log_steps: Layer name -> ``16 log2`` of the steps, before rounding to the grid.
        errors: Layer name -> relative output error ||Y - Y'|| / ||Y|| against the original.
    """

    model: nn.Module
    layers: dict[str, SteppedTensor]
    log_steps: dict[str, Tensor]
    errors: dict[str, float]


@dataclass(frozen=True)
class OriginalPass:
    """The calibration images and the original network's outputs for them.

    Attributes:
        original: The uncompressed network.
        images: Training images without labels, (N, 3, H, W), on the device.
        outputs: The original's outputs at the sampled positions of each layer.
        seeds: Layer name -> seed of its sampled positions, for the regular layers whose Hessian is not too large.
        shard: Calibration shard of this rank.
        sampling: Sizes of samples and chunks.
    """

    original: nn.Module
    images: Tensor
    outputs: OriginalOutputs
    seeds: dict[str, int]
    shard: CalibrationShard
    sampling: SamplingConfig

    @classmethod
    def record(
        cls,
        model: nn.Module,
        original: nn.Module,
        images: Tensor,
        *,
        seed: int = 0,
        shard: CalibrationShard | None = None,
        sampling: SamplingConfig = DEFAULT_SAMPLING,
        max_features: int = MAX_FEATURES,
    ) -> OriginalPass:
        """Run the original network.

        Args:
            model: The network to be rounded: the original with series convolutions.
            original: See the attributes, like the arguments after it.
            images: See the attributes.
            seed: Seed of the sampled positions of large feature maps.
            shard: None if the rank holds all images.
            sampling: See the attributes.
            max_features: Features of the largest Hessian; layers with more, and irregular ones, are rounded to nearest.
        """
        small = (
            name
            for name, layer in stored_layers(model).items()
            if is_regular(layer) and _features(layer) <= max_features
        )
        seeds = layer_seeds(small, seed)
        whole = shard or CalibrationShard.whole(len(images))
        with torch.no_grad():
            outputs = original_outputs(original, seeds, images, whole, sampling, additions=True)
        return cls(original, images, outputs, seeds, whole, sampling)

    def fit(self, model: nn.Module, constrain: Constrain) -> dict[str, float]:
        """Pass the images through a network and fit its layers; see ``basis.activations.LayerwiseFit``."""
        outputs = OriginalOutputs(dict(self.outputs.outputs), dict(self.outputs.shortcuts), self.outputs.norms)
        visit = LayerwiseFit(model, outputs, self.seeds, self.shard, self.sampling, ridge=RIDGE, constrain=constrain)
        with torch.no_grad():
            return visit.run(self.images)


def measure_layers(
    model: nn.Module, original: OriginalPass, *, seed: int = 0, logits: bool = True
) -> dict[str, LayerMeasurement]:
    """Measure sensitivities and freedoms of all layers that run, with the original's inputs.

    Args:
        model: The network to be rounded, with the original's values; it is left as it is.
        original: The original network's pass.
        seed: Seed of the random signs of ``output_sensitivities``.
        logits: See ``output_sensitivities``.

    Returns:
        Layer name -> measurement, in the order in which the layers run.

    Raises:
        NumericalError: A Hessian is not positive semi-definite.
    """
    layers = stored_layers(model)
    freedoms: dict[str, Tensor] = {}

    def keep(name: str, statistics: GramStatistics, columns: Tensor, absorbs: bool) -> Tensor:
        if name not in freedoms:
            hessian = columns_hessian(statistics, centered=absorbs)
            freedoms[name] = measure_freedoms(hessian, tuple(stored_values(layers[name]).shape[2:]))
        return columns

    network = copy.deepcopy(model)
    with _mean_squares(network, [name for name in layers if name not in original.seeds], freedoms, original.shard):
        original.fit(network, keep)
    sensitivities = output_sensitivities(
        model, freedoms, original.images, seed=seed, shard=original.shard, logits=logits
    )
    least = MIN_SENSITIVITY * max(sensitivities.values(), default=0.0) or 1.0
    return {name: LayerMeasurement(max(sensitivities.get(name, 0.0), least), freedoms[name]) for name in freedoms}


def round_network(
    model: nn.Module, original: OriginalPass, measurements: Mapping[str, LayerMeasurement], bits: float
) -> RoundedNetwork:
    """Round all layers so that their integers take about so many bits.

    A layer is refitted to the original's outputs when the images reach it, and rounded with error compensation. What
    its integers take more or less than predicted changes the steps of the layers after it. A layer that does not run,
    but whose weight the network reads, as in attention, gets 8 bits for its largest value. Other layers that do not run
    are rounded to steps of 1.

    Args:
        model: The network with the values to round; it is left as it is.
        original: The original network's pass.
        measurements: From ``measure_layers``.
        bits: Bits of all integers; see ``quant.rate.entropy_bits``.

    Raises:
        NumericalError: A Hessian is not positive semi-definite, or values are not finite.
    """
    network = copy.deepcopy(model)
    layers, others = stored_layers(network), coded_weights(model)
    set_weights(network, {name: each.dequantize() for name, each in others.items()})
    plan = RatePlan({name: stored_values(layers[name]).detach() for name in measurements}, measurements)
    allocation = _Allocation(plan, measurements, bits)
    found: dict[str, SteppedTensor] = {}

    def store(name: str, rounded: SteppedTensor) -> None:
        found[name] = rounded
        allocation.spend(name, entropy_bits(rounded))

    def constrain(name: str, statistics: GramStatistics, columns: Tensor, absorbs: bool) -> Tensor:
        hessian, values = columns_hessian(statistics, centered=absorbs), stored_values(layers[name])
        rounded = round_to_steps(columns[:, :-1], hessian, allocation.exponents(name), values.shape)
        store(name, rounded)
        return _with_constant(columns, rounded, statistics, absorbs=absorbs)

    def round_large(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if name not in found:
            store(name, nearest_to_steps(stored_values(module), allocation.exponents(name)))
            stored_values(module).copy_(found[name].dequantize())

    with ExitStack() as hooks:
        for name in measurements.keys() - original.seeds.keys():
            hooks.callback(layers[name].register_forward_pre_hook(partial(round_large, name)).remove)
        errors = original.fit(network, constrain)
    left = [name for name in layers if name not in found]
    used, log_steps = weights_in_use(network, left, original.images[:2]), dict(allocation.log_steps)
    for name in left:
        values = stored_values(layers[name]).detach()
        exponent = ceiling_exponents(values.abs().max() / _QMAX) if name in used else torch.tensor(0, dtype=torch.int16)
        found[name] = nearest_to_steps(values, exponent.cpu())
        if name in used:
            values.copy_(found[name].dequantize())
            log_steps[name] = exponent.cpu().to(torch.float64)
    return RoundedNetwork(network, {name: found[name] for name in layers} | others, log_steps, errors)


def coded_weights(model: nn.Module) -> dict[str, SteppedTensor]:
    """Round the weights of ``quant.other_weights`` to nearest, with 8 bits for the largest value of each."""
    return {name: _in_8_bits(weight.detach()) for name, weight in other_weights(model).items()}


def _in_8_bits(values: Tensor) -> SteppedTensor:
    return nearest_to_steps(values, ceiling_exponents(values.abs().max() / _QMAX).cpu())


class _Allocation:
    """Chooses c for each layer in turn, from the bits that the layers before it took."""

    def __init__(self, plan: RatePlan, measurements: Mapping[str, LayerMeasurement], bits: float) -> None:
        self._plan, self._measurements, self._bits = plan, measurements, bits
        self._names = list(measurements)
        self._start = plan.log_c(self._names, bits)
        self._predicted: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self.log_steps: dict[str, Tensor] = {}

    def exponents(self, name: str) -> Tensor:
        """Return the exponents of a layer's steps: the same at every call."""
        if name not in self.log_steps:
            left = [other for other in self._names if other not in self.log_steps]
            spent, predicted = sum(self._spent.values()), sum(self._predicted.values())
            ratio = spent / predicted if predicted > 0 and spent > 0 else 1.0
            log_c = self._plan.log_c(left, (self._bits - spent) / ratio)
            log_c = min(max(log_c, self._start - MAX_CORRECTION), self._start + MAX_CORRECTION)
            self._predicted[name] = self._plan.bits(name, round(log_c))
            self.log_steps[name] = self._measurements[name].log_steps(log_c)
        return on_grid(self.log_steps[name])

    def spend(self, name: str, bits: float) -> None:
        """Note the bits that a layer takes."""
        self._spent[name] = bits


def _features(layer: nn.Module) -> int:
    return stored_values(layer)[0].numel()


def _with_constant(columns: Tensor, rounded: SteppedTensor, statistics: GramStatistics, *, absorbs: bool) -> Tensor:
    """Return the rounded columns, and the constant with which the mean of the outputs stays that of ``columns``."""
    rows = rounded.dequantize().to(torch.float64).flatten(1).unflatten(0, (len(columns), -1))
    values, constant = rows.mT.to(columns), columns[:, -1:]
    if absorbs:
        mean = statistics.mean().gram[:, -1:, :-1]
        constant = constant + mean @ (columns[:, :-1] - values)
    return torch.cat([values, constant], dim=1)


def _mean_squares(
    model: nn.Module, names: Iterable[str], found: dict[str, Tensor], shard: CalibrationShard
) -> ExitStack:
    """Record the mean squared input of layers that are too large for a Hessian: their freedom without compensation."""

    def on_input(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if name not in found and inputs:
            terms = tuple(stored_values(module).shape[2:])
            x = inputs[0].double()
            total, count = shard.reduce(torch.stack([x.square().sum().cpu(), torch.tensor(float(x.numel())).double()]))
            found[name] = (total / count).expand(terms).clone()

    hooks, modules = ExitStack(), dict(model.named_modules())
    for name in names:
        hooks.callback(modules[name].register_forward_pre_hook(partial(on_input, name)).remove)
    hooks.enter_context(evaluation_mode(model))
    return hooks
