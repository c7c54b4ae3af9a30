"""Train through the rounding to steps, at a given number of bits.

The float values start from those of the network before rounding, and the steps start finer than those of the target.
All layers share one shift of their steps, in sixteenths of an octave. A controller measures the bits of the integers
every few training steps and moves the shift, so that the bits fall to those of the target in the first half of the
training and stay there.

Rounding with error compensation is a poor start. Its integers fit one set of steps, and any other steps undo the
compensation; at the same steps, straight-through gradients undo it (docs/training.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.layers import stored_layers, stored_tensor_name, stored_values
from quant.fake_quantizer import FakeQuantizer
from quant.formats import check_weight
from quant.grid import PER_OCTAVE, grid_values, on_grid
from quant.rate import entropy_bits
from quant.stepped import LARGEST_INTEGER, SteppedTensor

NEAREST: Final = 0.5
"""Threshold of rounding to the nearest."""
CONTROL_STEPS: Final = 25
"""Most training steps between two measurements of the bits."""
CONTROLS: Final = 64
"""Least number of measurements of the bits in a training of so many steps or more."""
CONTROL_PHASE: Final = 0.95
"""Share of all training steps after which the steps no longer change."""
START_SHARE: Final = 2.5
"""Bits at the start as a multiple of those of the target."""
FALL_PHASE: Final = 0.5
"""Share of all training steps in which the bits fall to those of the target."""
START_SHIFT: Final = -21.0
"""Shift at the start: steps of 0.4 times those of the target."""
GAIN: Final = 0.5
"""Octaves of the steps for an octave that the bits are off."""
CLOSE: Final = 0.1
"""Octaves that the bits may be off for ``CLOSE_GAIN``."""
CLOSE_GAIN: Final = 0.15
"""The gain for bits near their target. Training gathers values at the thresholds of the rounding: after some epochs,
steps move the bits five times as far as at first, and the full gain would oscillate.
"""
MAX_CHANGE: Final = 0.68
"""Largest change of the shift at once, in sixteenths of an octave: 3 %; larger in trainings of very few steps."""


class SteppedFakeQuantizer(FakeQuantizer):
    """Rounds a weight to multiples of its steps and lets all gradients through.

    Args:
        shape: The weight's shape.
        log_steps: ``16 log2`` of the step of each term, before rounding to the grid: (nh, nw) or ().

    Attributes:
        shift: Sixteenths of an octave that are added to ``log_steps``; without axes. Both are float32, because MPS has
            no float64.
    """

    learning_rate_share = 0.5
    log_steps: Tensor
    shift: Tensor

    def __init__(self, shape: torch.Size, log_steps: Tensor) -> None:
        super().__init__(shape)
        self.register_buffer("log_steps", log_steps.to(torch.float32))
        self.register_buffer("shift", torch.tensor(START_SHIFT))

    def exponents(self) -> Tensor:
        """Return the exponents of the steps: int16, (nh, nw) or (), on the device of the weight."""
        return on_grid(self.log_steps + self.shift)

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """See ``FakeQuantizer``."""
        # Without the checks of a stored tensor: each waits for the device.
        exponents = self.exponents()
        rounded = _rounded(weight.detach(), exponents, NEAREST) * grid_values(exponents)
        return rounded + (weight - weight.detach())  # the sum is exactly the stored value

    def quantized(self, weight: Tensor) -> SteppedTensor:
        """See ``FakeQuantizer``."""
        return self.rounded(weight, NEAREST)

    @torch.no_grad()
    def rounded(self, weight: Tensor, threshold: float) -> SteppedTensor:
        """Round magnitudes up from a fraction of ``threshold`` on; 0.5 rounds to the nearest."""
        exponents = self.exponents()
        integers = _rounded(check_weight(weight), exponents, threshold)
        return SteppedTensor(integers.to(torch.int32), exponents.cpu())


def _rounded(weight: Tensor, exponents: Tensor, threshold: float) -> Tensor:
    """Return the integers of a weight as float32."""
    values = weight / grid_values(exponents)
    return (values.abs() + (1 - threshold)).floor().clamp_max(LARGEST_INTEGER) * values.sign()


def attach_stepped_quantizers(model: nn.Module, log_steps: Mapping[str, Tensor]) -> nn.Module:
    """Attach fake quantizers to the layers of a network, in place.

    Args:
        model: The network, with float values.
        log_steps: Layer name -> ``16 log2`` of its steps at the bits of the target; other layers stay as they are.

    Returns:
        The network.
    """
    quantizers: dict[int, SteppedFakeQuantizer] = {}
    for name, steps in log_steps.items():
        values = stored_values(model.get_submodule(name))
        quantizers[id(values)] = SteppedFakeQuantizer(values.shape, steps).to(values.device)
    for module in list(model.modules()):  # layers that share a weight share its quantizer
        tensor_name = stored_tensor_name(module)
        quantizer = None if tensor_name is None else quantizers.get(id(stored_values(module)))
        if tensor_name is not None and quantizer is not None:
            parametrize.register_parametrization(module, tensor_name, quantizer)
    return model


def stepped_layers(model: nn.Module, threshold: float = NEAREST) -> dict[str, SteppedTensor]:
    """Return the stored values of all layers with a ``SteppedFakeQuantizer``, by name.

    Args:
        model: The network.
        threshold: See ``SteppedFakeQuantizer.rounded``: a larger one gives smaller integers, and so fewer bits.
    """
    return {name: quantizer.rounded(master, threshold) for name, (master, quantizer) in _quantizers(model).items()}


class RateControl:
    """Keeps the integers of a network at a number of bits while it is trained.

    Args:
        model: A network with fake quantizers of ``attach_stepped_quantizers``.
        wanted: Maps the bits that all integers take now to those that the target leaves them, which depends on what the
            rest of the network takes; see ``quant.rate.entropy_bits``.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[float], float]) -> None:
        self._quantizers, self._wanted = list(_quantizers(model).values()), wanted

    def before_step(self, step: int, steps: int) -> None:
        """Move the steps every few training steps, until ``CONTROL_PHASE``.

        Args:
            step: Number of the training step, from 0.
            steps: Number of all training steps.
        """
        every = max(1, min(CONTROL_STEPS, steps // CONTROLS))
        if step % every or step > CONTROL_PHASE * steps:
            return
        falls = max(1, math.floor(FALL_PHASE * steps / every))
        largest = max(MAX_CHANGE, -START_SHIFT / falls)
        taken = sum(entropy_bits(quantizer.quantized(master)) for master, quantizer in self._quantizers)
        wanted = self._wanted(taken) * (1 + (START_SHARE - 1) * max(0.0, 1 - step / (FALL_PHASE * steps)))
        missed = math.log2(max(taken, 1.0) / wanted)
        change = (CLOSE_GAIN if abs(missed) < CLOSE else GAIN) * PER_OCTAVE * missed
        for _, quantizer in self._quantizers:
            quantizer.shift += min(max(change, -largest), largest)


def _quantizers(model: nn.Module) -> dict[str, tuple[nn.Parameter, SteppedFakeQuantizer]]:
    found: dict[str, tuple[nn.Parameter, SteppedFakeQuantizer]] = {}
    for name, module in stored_layers(model).items():
        tensor_name = str(stored_tensor_name(module))
        if parametrize.is_parametrized(module, tensor_name):
            chain = cast(nn.ModuleDict, module.parametrizations)[tensor_name]
            quantizer = cast(parametrize.ParametrizationList, chain)[-1]
            if isinstance(quantizer, SteppedFakeQuantizer):
                found[name] = cast(nn.Parameter, chain.original), quantizer
    return found
