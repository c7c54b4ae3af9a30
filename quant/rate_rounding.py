"""Round a whole network to a number of bits, in passes over the calibration images.

1. ``quant.original_pass``: one pass over the original network records the outputs that every layer should keep.
2. ``quant.measurement``: one pass over the uncompressed values measures all layers, once for all targets.
3. ``round_network``: one pass over the compressed network rounds layer after layer, for one target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from basis.copying import copy_network
from basis.gram_statistics import GramStatistics
from basis.layers import stored_layers, stored_values
from basis.memory import release_memory
from quant.coarse_scales import ShiftRounding
from quant.grid import ceiling_exponents, on_grid
from quant.original_pass import OriginalPass
from quant.other_weights import other_weights, set_weights
from quant.rate import PREDICTION_VALUES, RatePlan, entropy_bits, nearest_to_steps
from quant.sensitivity import weights_in_use
from quant.step_rounding import FactoredHessian, column_steps, columns_hessian, factor_hessian, round_to_steps
from quant.stepped import SteppedTensor

ROUNDING_IMAGES: Final = 1024
"""Most calibration images of a target: four times as many brought no Top-1 (docs/results.md)."""
SAMPLED_VALUES: Final = 2**17
"""Values of a large layer that are rounded twice: the first time to see how many bits they take with compensation."""
MAX_CORRECTION: Final = 8.0
"""Largest correction of ``16 log2(c)`` for the prediction errors of earlier layers: half an octave."""
_QMAX: Final = 127  # largest integer of a layer that does not run


@dataclass(frozen=True)
class RoundedNetwork:
    """A network whose layers hold rounded values.

    Attributes:
        model: The network: its layers, biases and running means are those of the rounding.
        layers: Layer name -> stored values; and parameter name -> stored values, see ``coded_weights``.
        used: Names of the layers whose weights the network reads.
        errors: Layer name -> relative output error ||Y - Y'|| / ||Y|| against the original.
    """

    model: nn.Module
    layers: dict[str, SteppedTensor]
    used: tuple[str, ...]
    errors: dict[str, float]


def round_network(
    model: nn.Module, original: OriginalPass, plan: RatePlan, bits: float, *, shift_error: float = 0.0
) -> RoundedNetwork:
    """Round all layers so that their integers take about so many bits.

    A layer is refitted to the original's outputs when the images reach it, and rounded with error compensation. If its
    integers take more or fewer bits than predicted, the steps of later layers compensate for it. A layer that was
    measured but is not fitted, as an expert behind a gate, is rounded to nearest. A layer that does not run, but whose
    weight the network reads, as in attention, gets 8 bits for its largest value. Other layers that do not run are
    rounded to steps of 1.

    Args:
        model: The network with the values to round; it is left as it is.
        original: The original network's pass.
        plan: Of the model, with the measurements of ``quant.measurement.measure_layers``.
        bits: Bits of all integers; see ``quant.rate.entropy_bits``.
        shift_error: Error to which the shifts of normalizations are rounded; see ``quant.coarse_scales``. 0 does not
            round them.

    Raises:
        NumericalError: A Hessian is not positive semi-definite, or values are not finite.
    """
    network = copy_network(model)
    layers, uncompressed, others = stored_layers(network), stored_layers(model), coded_weights(model)
    set_weights(network, {name: each.dequantize() for name, each in others.items()})
    allocation = _Allocation(plan, bits)
    shifts = ShiftRounding(network, original.outputs.norms, shift_error) if shift_error else None
    found: dict[str, SteppedTensor] = {}
    factored: dict[str, FactoredHessian] = {}  # of the last layer, which an addition may fit a second time

    def store(name: str, rounded: SteppedTensor) -> None:
        found[name] = rounded
        allocation.spend(name, entropy_bits(rounded))

    def constrain(name: str, statistics: GramStatistics, columns: Tensor, absorbs: bool) -> Tensor:
        if name not in factored:
            factored.clear()
            steps = column_steps(plan.measurements[name].exponents(0), columns.shape[1] - 1)
            factored[name] = factor_hessian(
                columns_hessian(statistics, centered=absorbs), steps, scarcity=statistics.scarcity
            )
        given = stored_values(uncompressed[name]).detach()
        sample = None
        if given.numel() > PREDICTION_VALUES and len(columns) == 1:
            sample = partial(_compensated_share, columns[:, :-1], factored[name], given)
        exponents = allocation.exponents(name, sample)
        rounded_again = name in original.outputs.shortcuts and name not in found  # when the images reach the addition
        rounded = round_to_steps(columns[:, :-1], factored[name], exponents, given.shape, moves=not rounded_again)
        store(name, rounded)
        stored = _with_constant(columns, rounded, statistics, absorbs=absorbs)
        return stored if shifts is None else shifts.rounded(name, stored)

    def store_nearest(name: str) -> None:
        values = stored_values(layers[name]).detach()
        store(name, nearest_to_steps(values, allocation.exponents(name)))
        values.copy_(found[name].dequantize())

    for name in plan.measurements:  # before the pass, in which such a layer may run on some ranks alone
        if name not in original.seeds:
            store_nearest(name)
    errors = original.fit(network, constrain)
    left = [name for name in layers if name not in found]
    also_used = weights_in_use(network, left, original.images[:2])
    for name in left:
        values = stored_values(layers[name]).detach()
        if name in plan.measurements:  # it ran in the original, or on other images
            store_nearest(name)
        elif name in also_used:
            found[name] = _in_8_bits(values)
            values.copy_(found[name].dequantize())
        else:
            found[name] = nearest_to_steps(values, torch.tensor(0, dtype=torch.int16))
    release_memory()
    used = tuple(name for name in layers if name not in left or name in plan.measurements or name in also_used)
    return RoundedNetwork(network, {name: found[name] for name in layers} | others, used, errors)


def coded_weights(model: nn.Module) -> dict[str, SteppedTensor]:
    """Round the weights of ``quant.other_weights`` to nearest, with 8 bits for the largest value of each."""
    return {name: _in_8_bits(weight.detach()) for name, weight in other_weights(model).items()}


def _in_8_bits(values: Tensor) -> SteppedTensor:
    return nearest_to_steps(values, ceiling_exponents(values.abs().max() / _QMAX).cpu())


class _Allocation:
    """Chooses c for each layer in turn, from the bits that the layers before it took."""

    def __init__(self, plan: RatePlan, bits: float) -> None:
        self._plan, self._bits, self._names = plan, bits, list(plan.measurements)
        self._start = plan.log_c(self._names, bits)
        self._predicted: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self.log_steps: dict[str, Tensor] = {}

    def exponents(self, name: str, share: Callable[[Tensor], float] | None = None) -> Tensor:
        """Return the exponents of a layer's steps: the same at every call.

        Args:
            name: The layer.
            share: Returns the bits that the layer takes at some exponents, as a share of the predicted bits. None if
                the bits are known only after the rounding.
        """
        if name not in self.log_steps:
            left = [other for other in self._names if other not in self.log_steps]
            spent, predicted = sum(self._spent.values()), sum(self._predicted.values())
            ratio = spent / predicted if predicted > 0 and spent > 0 else 1.0
            lowest, highest = self._start - MAX_CORRECTION, self._start + MAX_CORRECTION
            within = math.floor(lowest), math.ceil(highest)

            def log_c_for(bits: float) -> float:
                return min(max(self._plan.log_c(left, bits, within), lowest), highest)

            budget = (self._bits - spent) / ratio
            log_c = log_c_for(budget)
            if share is not None:
                own = share(self._plan.measurements[name].exponents(log_c)) / ratio
                log_c = log_c_for(budget - (own - 1) * self._plan.bits(name, round(log_c)))
            self._predicted[name] = self._plan.bits(name, round(log_c))
            self.log_steps[name] = self._plan.measurements[name].log_steps(log_c)
        return on_grid(self.log_steps[name])

    def spend(self, name: str, bits: float) -> None:
        """Note the bits that a layer takes."""
        self._spent[name] = bits


def _compensated_share(columns: Tensor, hessian: FactoredHessian, given: Tensor, exponents: Tensor) -> float:
    """Return the bits of rounding with compensation, as a share of those of rounding the given values to nearest.

    Both are taken from the same evenly spaced output channels.

    Args:
        columns: The refitted values, transposed: (1, F, O).
        hessian: Of the columns.
        given: The values before, (O, ...).
        exponents: Of the steps.
    """
    every = -(-given.numel() // SAMPLED_VALUES)
    nearest = nearest_to_steps(given[::every], exponents)
    rounded = round_to_steps(columns[..., ::every], hessian, exponents, nearest.integers.shape)
    expected = entropy_bits(nearest)
    return entropy_bits(rounded) / expected if expected > 0 else 1.0


def _with_constant(columns: Tensor, rounded: SteppedTensor, statistics: GramStatistics, *, absorbs: bool) -> Tensor:
    """Return the rounded columns, and the constant with which the mean of the outputs stays that of ``columns``."""
    rows = rounded.dequantize().to(torch.float64).flatten(1).unflatten(0, (len(columns), -1))
    values, constant = rows.mT.to(columns), columns[:, -1:]
    if absorbs:
        mean = statistics.mean().gram[:, -1:, :-1]
        constant = constant + mean @ (columns[:, :-1] - values)
    return torch.cat([values, constant], dim=1)
