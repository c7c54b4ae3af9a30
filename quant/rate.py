"""Choose the step of every term of a network for a target rate.

A uniform quantizer with step d, followed by an entropy coder, is within 0.25 bit per value of the rate-distortion bound
if every value adds the same distortion to the loss (reverse water-filling). F_j is the Fisher information of
coefficient j (``quant.sensitivity``), and H the damped Hessian of the squared error of the layer's outputs. The
remaining freedom ``f_j = 1 / (H^-1)_jj`` is the squared output error of a unit error of column j after the best
compensation by the other columns. Without compensation it is ``H_jj``. A compensated error therefore costs about
``F_j f_j / H_jj``, and the steps are

    d_t = c / sqrt(F_t f_t / H_t)

with one c for the whole network. Over the columns j of term t, f_t is the geometric mean of f_j, and F_t and H_t are
the means of F_j and H_jj. Steps are rounded to the grid of ``quant.grid``, so ``log2 c`` counts in sixteenths.

Source: reverse water-filling, Cover and Thomas, Elements of Information Theory, 10.3; steps per column under error
compensation, WaterSIC, arXiv 2603.04956.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basis.layers import stored_layers, stored_values
from quant.formats import check_weight
from quant.grid import PER_OCTAVE, grid_values, on_grid
from quant.stepped import LARGEST_INTEGER, SteppedTensor

_INTEGER_BITS = 18
"""Bits of the largest integer at the finest steps that are tried; still finer steps hardly change float32 weights."""
PREDICTION_VALUES = 2**19
"""Most values of a layer from which its bits are predicted. Larger layers are subsampled: many steps are predicted."""


@dataclass(frozen=True, eq=False)
class LayerMeasurement:
    """The measurement that determines the steps of a layer.

    Attributes:
        costs: ``F_t f_t / H_t`` of each term. It is twice the divergence of the predictions for an error of 1 in one
            value. Above 0, float64, (nh, nw) for stored values (O, I, nh, nw), otherwise ().
    """

    costs: Tensor

    def log_steps(self, log_c: float) -> Tensor:
        """Return ``16 log2`` of the steps, before rounding to the grid: float64, the shape of ``costs``.

        Args:
            log_c: ``16 log2(c)``.
        """
        return log_c - 0.5 * PER_OCTAVE * self.costs.log2()

    def exponents(self, log_c: float) -> Tensor:
        """Return the exponents of the steps: int16, the shape of ``costs``."""
        return on_grid(self.log_steps(log_c))


def nearest_to_steps(values: Tensor, exponents: Tensor) -> SteppedTensor:
    """Round stored values (O, ...) to the nearest multiples of their steps."""
    integers = (check_weight(values) / grid_values(exponents).to(values.device)).round()
    return SteppedTensor(integers.clamp(-LARGEST_INTEGER, LARGEST_INTEGER).to(torch.int32), exponents)


class RatePlan:
    """Predicts the coded size of every layer at every c, from its values rounded to the nearest.

    Args:
        values: Layer name -> stored values, (O, ...).
        measurements: Layer name -> measurement, for the same layers.

    Attributes:
        measurements: The argument.
    """

    def __init__(self, values: Mapping[str, Tensor], measurements: Mapping[str, LayerMeasurement]) -> None:
        self._values = {name: _some_channels(stored) for name, stored in values.items()}
        self._scales = {name: stored.numel() / self._values[name].numel() for name, stored in values.items()}
        self.measurements = measurements
        self._bits: dict[tuple[str, int], float] = {}

    @classmethod
    def of(cls, model: nn.Module, measurements: Mapping[str, LayerMeasurement]) -> RatePlan:
        """Return the plan of the measured layers of a network, with its present values."""
        layers = stored_layers(model)
        return cls({name: stored_values(layers[name]).detach() for name in measurements}, measurements)

    def nearest(self, bits: float) -> dict[str, SteppedTensor]:
        """Return all layers, rounded to nearest at the steps for so many bits.

        Layers of more than ``PREDICTION_VALUES`` values have some of their output channels; see ``scale``.
        """
        log_c = round(self.log_c(list(self._values), bits))
        return {
            name: nearest_to_steps(values, self.measurements[name].exponents(log_c))
            for name, values in self._values.items()
        }

    def scale(self, name: str) -> float:
        """Return the number of values of a layer, divided by those in ``nearest``."""
        return self._scales[name]

    def bits(self, name: str, log_c: int) -> float:
        """Return the predicted bits of a layer at ``log_c = 16 log2(c)``."""
        if (name, log_c) not in self._bits:
            exponents = self.measurements[name].exponents(log_c)
            bits = entropy_bits(nearest_to_steps(self._values[name], exponents))
            self._bits[name, log_c] = self._scales[name] * bits
        return self._bits[name, log_c]

    def log_c(self, names: list[str], bits: float, within: tuple[int, int] | None = None) -> float:
        """Return the least ``16 log2(c)`` at which the layers take at most so many bits, with a fraction.

        The result is interpolated linearly between neighbouring grid points.

        Args:
            names: The layers.
            bits: Their bits.
            within: Range of the search; None searches all that makes a difference.
        """
        low, high = within or self._bounds(names)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._total(names, middle) > bits else (low, middle)
        above, below = self._total(names, low), self._total(names, high)
        return high - (min(1.0, (bits - below) / (above - below)) if above > below else 0.0)

    def _bounds(self, names: list[str]) -> tuple[int, int]:
        """Return a ``16 log2(c)`` at which the largest integer has ``_INTEGER_BITS``, and one at which all are 0."""
        largest = 0.0
        for name in names:
            steps = grid_values(self.measurements[name].exponents(0)).to(self._values[name].device)
            largest = max(largest, float((self._values[name] / steps).abs().max()))
        zero = round(PER_OCTAVE * math.log2(4 * largest)) if largest > 0 else 0
        return zero - PER_OCTAVE * _INTEGER_BITS, zero

    def _total(self, names: list[str], log_c: int) -> float:
        return sum(self.bits(name, log_c) for name in names)


def _some_channels(values: Tensor) -> Tensor:
    """Return evenly spaced output channels of a tensor with more than ``PREDICTION_VALUES`` values."""
    every = max(1, min(len(values), values.numel() // PREDICTION_VALUES))
    return values[::every]


def entropy_bits(tensor: SteppedTensor) -> float:
    """Return the empirical entropy of the integers in bits, by term, with the price of a table for each term.

    The price is half of ``log2(n)`` bits for each distinct integer but one (Rissanen 1986), n being the term's values.
    """
    integers = tensor.integers.flatten(0, 1).flatten(1) if tensor.exponents.ndim else tensor.integers.reshape(-1, 1)
    values, terms = integers.shape
    low, high = (int(bound) for bound in integers.aminmax())
    # All terms are counted at once: each gets a range of keys of its own.
    keys = integers.to(torch.int64) + (high - low + 1) * torch.arange(terms, device=integers.device)
    counts = _counts(keys.flatten() - low).to(torch.float64)
    table = 0.5 * (len(counts) - terms) * math.log2(values)
    return table - float((counts * (counts / values).log2()).sum())


def _counts(values: Tensor) -> Tensor:
    """Return how often each distinct integer of 0 or more occurs; sorts only if the integers are far apart."""
    if int(values.max()) > 4 * values.numel():
        distinct: Tensor = values.unique(return_counts=True)[1]
        return distinct
    counts = torch.bincount(values)
    present: Tensor = counts[counts > 0]
    return present
