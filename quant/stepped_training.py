"""Train the rounding of a network to steps, at a given number of bits.

Training starts from the integers of rounding with error compensation. It chooses for each value whether it stays at its
integer, or moves to the next one on the side of the uncompressed value. A move undoes some of the compensation. At
first a value lies between the two, so that its gradient is exact. A falling temperature drives it to one of them. After
``ANNEALED`` of all training steps every value is an integer, and only the parameters in float are trained.

A price on the bits of the chosen integers is part of the loss. Its unit is the level: the mean loss of the first
training steps. The same constants therefore suit coarse and fine roundings. A controller raises the price while the
integers take more bits than the target leaves them, and lowers it while they take fewer. The price may be negative.

Source: rounding up or down by gradients, AdaRound (Nagel et al. 2020, arXiv 2004.10568), here between other neighbours,
with the loss of the network, and with a temperature in place of a regularizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from basis.layers import stored_layers, stored_values
from quant.fake_quantizer import FakeQuantizer, attach, attached
from quant.formats import check_weight
from quant.grid import grid_values
from quant.rate import entropy_bits
from quant.stepped import SteppedTensor

UNDECIDED: Final = 0.0
"""Logit above which a value moves to its neighbour, if no other threshold is given; see ``rounded``."""
START_SHARE: Final = 0.5
"""Share of the distance to the uncompressed value at which a value starts."""
_SURE: Final = 0.01  # least share of the way to the neighbour at the start; the greatest is 1 minus it
_FIXED: Final = 1e-6  # greatest share in a term whose step is so large that ``_SURE`` of it exceeds every value
_LEAST: Final = 1e-37  # least share in such a term: 1e-7 at the largest step; its logit is finite in float32
ANNEALED: Final = 0.9
"""Share of all training steps after which every value is an integer."""
LAST_TEMPERATURE: Final = 0.05
"""Temperature at the end of the annealing; it is 1 at the start, and falls exponentially."""
CONTROL_STEPS: Final = 25
"""Most training steps between two measurements of the bits."""
CONTROLS: Final = 64
"""Least number of such intervals in a training; with fewer training steps than this, each step is one."""
START_PRICE: Final = 1.5
"""Price of as many bits as the integers have at the start, in units of the level of the loss."""
LEAST_LEVEL: Final = 0.3
"""Least level of the loss, in nats."""
PROPORTIONAL: Final = 30.0
"""Gain of the price for the share that the bits are off, in units of the level."""
INTEGRAL: Final = 2.0
"""Gain of the price for the sum of these shares over all measurements, in units of the level."""


class SteppedFakeQuantizer(FakeQuantizer):
    """Values between integers and their neighbours, in multiples of the steps.

    The parameter is not a value but its logit: ``(integer + direction * sigmoid(logit / temperature)) * step``.

    Args:
        start: The integers at which the network was rounded.
        uncompressed: The values before the rounding, float32, of the same shape.

    Attributes:
        level: Mean loss of the training steps before the first measurement, without axes, like the next two.
        missed: Sum over all measurements of ``bits / wanted bits - 1``.
        price: Loss for as many bits as the integers have at the start.
        temperature: Temperature of the annealing; 0 rounds.
        start_bits: Bits of the integers at the start.
    """

    learning_rate_share = 200 / 3
    decays = False
    integers: Tensor
    exponents: Tensor
    direction: Tensor
    extra_bits: Tensor
    level: Tensor
    missed: Tensor
    price: Tensor

    def __init__(self, start: SteppedTensor, uncompressed: Tensor) -> None:
        super().__init__(start.integers.shape)
        device = uncompressed.device
        integers = start.integers.to(device)
        distance = uncompressed / grid_values(start.exponents).to(device) - integers
        direction = torch.where(distance < 0, -1, 1).to(torch.int8)
        extra, self.start_bits = _bits_of_moves(integers, integers + direction, start.exponents.ndim > 0)
        self.register_buffer("integers", integers)
        self.register_buffer("exponents", start.exponents.to(device))
        self.register_buffer("direction", direction)
        self.register_buffer("extra_bits", extra)
        for name in ("level", "missed", "price"):
            self.register_buffer(name, torch.zeros((), device=device))
        self.temperature = 1.0

    def logits(self, uncompressed: Tensor) -> Tensor:
        """Return the logits at the start for the values before the rounding: float32, same shape.

        A term on which the outputs hardly depend may have a step of thousands of times its values. These values start
        at 0, because a hundredth of the step would be far larger than they are.
        """
        distance = (uncompressed / grid_values(self.exponents) - self.integers).abs()
        axes = tuple(range(distance.ndim - self.exponents.ndim))  # those of the values of one term
        zero = self.integers.abs().amax(axes, keepdim=True) == 0
        dropped = zero & (distance.amax(axes, keepdim=True) < _SURE)
        share = START_SHARE * distance
        return torch.logit(torch.where(dropped, share.clamp(_LEAST, _FIXED), share.clamp(_SURE, 1 - _SURE)))

    def moved(self, logits: Tensor) -> Tensor:
        """Return the share of the way to the neighbour: float32, 0 to 1, same shape."""
        return torch.sigmoid(logits / self.temperature) if self.temperature else (logits > UNDECIDED).float()

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """See ``FakeQuantizer``; the weight holds logits."""
        return (self.integers + self.direction * self.moved(weight)) * grid_values(self.exponents)

    def quantized(self, weight: Tensor) -> SteppedTensor:
        """See ``FakeQuantizer``."""
        return self.rounded(weight, UNDECIDED)

    @torch.no_grad()
    def rounded(self, weight: Tensor, threshold: float) -> SteppedTensor:
        """Round: a larger threshold gives fewer bits.

        A logit must exceed the threshold for a move that takes bits, and its negative for one that saves bits.
        """
        least = torch.where(self.extra_bits > 0, threshold, -threshold)
        integers = self.integers + self.direction * (check_weight(weight) > least)
        return SteppedTensor(integers.to(torch.int32), self.exponents.cpu())

    def moved_bits(self, logits: Tensor) -> Tensor:
        """Return the bits that all moves add, at the present shares; without axes, with a gradient."""
        return (self.extra_bits * self.moved(logits)).sum()


def _bits_of_moves(integers: Tensor, neighbours: Tensor, by_term: bool) -> tuple[Tensor, float]:
    """Return the bits that each move adds, and the bits of all integers.

    The bits of an integer follow from how often it occurs in its term. One that does not occur costs a bit more than
    one that occurs once.

    Args:
        integers: int32, (O, I, nh, nw) or (O, ...).
        neighbours: Integers in their place, of the same shape.
        by_term: True if each of the terms (nh, nw) has a distribution of its own.

    Returns:
        float32 of the shape of ``integers``, and a number above 0.
    """
    columns, others = (
        (each.flatten(0, 1).flatten(1) if by_term else each.reshape(-1, 1)).T.contiguous()
        for each in (integers, neighbours)
    )
    extra, total, count = torch.empty(columns.shape, device=integers.device), 0.0, columns.shape[1]
    for term, (column, other) in enumerate(zip(columns, others, strict=True)):
        distinct, place, counts = column.unique(return_inverse=True, return_counts=True)
        bits = (count / counts).log2()
        at = torch.searchsorted(distinct, other).clamp_max(len(distinct) - 1)
        cost = torch.where(distinct[at] == other, bits[at], math.log2(count) + 1)
        extra[term] = cost - bits[place]
        total += float(bits[place].sum())
    return extra.T.reshape(integers.shape).contiguous(), max(total, 1.0)


def attach_stepped_quantizers(
    model: nn.Module, layers: Mapping[str, SteppedTensor], uncompressed: Mapping[str, Tensor]
) -> nn.Module:
    """Attach fake quantizers to the layers of a network, in place; their values become logits.

    Args:
        model: The rounded network.
        layers: Name of a layer -> its integers and steps.
        uncompressed: Name of a layer to train -> its values before the rounding, on the device of the network.

    Returns:
        The network.
    """
    quantizers: dict[int, SteppedFakeQuantizer] = {}
    for name, before in uncompressed.items():
        values = stored_values(model.get_submodule(name))
        quantizer = SteppedFakeQuantizer(layers[name], before)
        quantizers[id(values)] = quantizer
        with torch.no_grad():
            values.copy_(quantizer.logits(before))
    attach(model, quantizers)
    return model


def stepped_layers(model: nn.Module, threshold: float = UNDECIDED) -> dict[str, SteppedTensor]:
    """Return the stored values of all layers with a ``SteppedFakeQuantizer``, by name.

    Args:
        model: The network.
        threshold: See ``SteppedFakeQuantizer.rounded``.
    """
    return {name: quantizer.rounded(logits, threshold) for name, (logits, quantizer) in _quantizers(model).items()}


class RateControl:
    """Anneals the values of a network to integers, and keeps them at a number of bits, while it is trained.

    Args:
        model: A network with fake quantizers of ``attach_stepped_quantizers``.
        wanted: Maps the bits that all integers take now to the bits that the target leaves them. These depend on the
            bytes of all other tensors. See ``quant.rate.entropy_bits`` for the bits.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[float], float]) -> None:
        self._quantizers, self._wanted = list(_quantizers(model).values()), wanted

    def before_step(self, step: int, steps: int) -> None:
        """Set the temperature, and every few training steps the price, until the values are integers.

        Args:
            step: Number of the training step, from 0.
            steps: Number of all training steps.
        """
        share = step / (ANNEALED * steps)
        for _, quantizer in self._quantizers:
            quantizer.temperature = LAST_TEMPERATURE**share if share < 1 else 0.0
        if not step or step % _control_steps(steps) or share >= 1:
            return
        taken = sum(entropy_bits(quantizer.quantized(logits)) for logits, quantizer in self._quantizers)
        missed = taken / self._wanted(taken) - 1
        for _, quantizer in self._quantizers:
            quantizer.missed += missed
            units = START_PRICE + INTEGRAL * quantizer.missed + PROPORTIONAL * missed
            quantizer.price.copy_(units * quantizer.level.clamp_min(LEAST_LEVEL))

    def after_step(self, step: int, steps: int, loss: float) -> None:
        """Add the loss of one of the first training steps to the level, in which the price is measured.

        Args:
            step: See ``before_step``.
            steps: See ``before_step``.
            loss: Loss of the batch, with the price.
        """
        if step < _control_steps(steps):
            for _, quantizer in self._quantizers:
                quantizer.level += (loss - quantizer.level) / (step + 1)

    def loss(self) -> Tensor:
        """Return the price of the bits that the moves add, as a part of the loss: without axes."""
        if not self._quantizers:  # all layers are frozen
            return torch.zeros(())
        added = [quantizer.moved_bits(logits) for logits, quantizer in self._quantizers]
        price = self._quantizers[0][1].price
        return price * torch.stack(added).sum() / sum(quantizer.start_bits for _, quantizer in self._quantizers)

    def end(self) -> None:
        """Round all values."""
        for _, quantizer in self._quantizers:
            quantizer.temperature = 0.0


def _control_steps(steps: int) -> int:
    """Return the number of training steps from one measurement of the bits to the next."""
    return max(1, min(CONTROL_STEPS, steps // CONTROLS))


def _quantizers(model: nn.Module) -> dict[str, tuple[nn.Parameter, SteppedFakeQuantizer]]:
    found: dict[str, tuple[nn.Parameter, SteppedFakeQuantizer]] = {}
    for name, module in stored_layers(model).items():
        quantizer, logits = attached(module) or (None, None)
        if isinstance(quantizer, SteppedFakeQuantizer) and logits is not None:
            found[name] = logits, quantizer
    return found
