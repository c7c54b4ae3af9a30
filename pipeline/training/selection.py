"""Choose the weights of a training by the loss on held-out training images: the start, or the end of an epoch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from basis.copying import copy_network
from pipeline.store.entry import load_state, state_of
from pipeline.training.schedule import FULL_RATE_STEPS, Schedule

HELD_OUT_SHARE: Final = 10
"""Every tenth training image is held out, but the numbers below limit the count."""
MOST_HELD_OUT: Final = 2000
"""Most held-out images. The standard error of a Top-1 of 90 % is then 0.7 points; measuring stays cheap."""
LEAST_HELD_OUT: Final = 5
"""Least held-out images, but at most half of the training images."""
_EPOCH, _LOSSES, _WEIGHTS = "epoch", "losses", "weights."


@dataclass(frozen=True)
class Margin:
    """The gain for which a training replaces the weights before it.

    Attributes:
        standard_errors: Least mean gain, in standard errors of the mean of the gains.
        tolerance: Rise of the mean loss that is accepted, in nats.
    """

    standard_errors: float = 0.0
    tolerance: float = 0.0


CERTAIN_GAIN: Final = Margin(standard_errors=2.0)
"""Margin of weights that are known to be good, for one epoch; see ``certain_gain``."""
ANY_GAIN: Final = Margin()
"""Margin of random weights."""
NO_HARM: Final = Margin(tolerance=0.1)
"""Margin of long trainings of a network whose own training may have seen the held-out images: docs/training.md."""


def certain_gain(epochs: int) -> Margin:
    """Return the margin of good weights for the best of some epochs.

    By chance alone, the best of many epochs gains more than one epoch does. The standard errors are those that chance
    exceeds in at most 2.3 % of trainings, as for one epoch.

    Source:
        Bonferroni's correction for multiple comparisons.
    """
    normal = NormalDist()
    chance = normal.cdf(-CERTAIN_GAIN.standard_errors) / max(1, epochs)
    return Margin(standard_errors=-normal.inv_cdf(chance))


def margin_of(schedule: Schedule, images: int, *, seen: bool) -> Margin:
    """Return the least gain of a training of a good network: lenient if it is long and the images may be known.

    Args:
        schedule: The schedule of the training.
        images: Number of its training images.
        seen: True if the network's own training may have seen the held-out images. A long training gives up what the
            network knows of them.
    """
    return NO_HARM if seen and schedule.steps(images) >= FULL_RATE_STEPS else certain_gain(schedule.epochs)


Judge = Callable[[nn.Module], Tensor]
"""Maps a network to its losses on the held-out images: float64, (images,), the same on every rank."""


class Divisible(Protocol):
    """Images with parts of their own kind."""

    def __len__(self) -> int:
        """Return the number of images."""

    def part(self, start: int, stop: int) -> Self:
        """Return the images from index ``start`` up to, but without, index ``stop``; there may be none."""


Trained = TypeVar("Trained")
Held = TypeVar("Held")
Parts = TypeVar("Parts", bound=Divisible)


class HoldOut(NamedTuple, Generic[Trained, Held]):
    """Training images in two parts, which have no common images unless the maker documents it.

    Attributes:
        trained: Images that are trained on.
        held_out: Images that only choose between weights.
    """

    trained: Trained
    held_out: Held


def hold_out(images: Parts, share: int = HELD_OUT_SHARE, most: int = MOST_HELD_OUT) -> HoldOut[Parts, Parts]:
    """Hold out the last images, whose order must mix the classes.

    Args:
        images: Training images.
        share: One of this many images is held out.
        most: Most held-out images.

    Returns:
        Both parts. A single image is in both of them, because neither may be empty.
    """
    count = min(max(len(images) // share, LEAST_HELD_OUT), most, len(images) // 2)
    if count == 0:
        return HoldOut(images, images)
    first = len(images) - count
    return HoldOut(images.part(0, first), images.part(first, len(images)))


def gains(before: Tensor, after: Tensor, margin: Margin = CERTAIN_GAIN) -> bool:
    """Return True if the mean loss fell enough.

    Args:
        before: Losses of the images, float64, (images,).
        after: Losses of the same images with other weights.
        margin: Least gain.
    """
    gain = before - after
    error = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return float(gain.mean()) > margin.standard_errors * error - margin.tolerance


@dataclass(frozen=True)
class Selection:
    """The choice of a training.

    Attributes:
        epoch: Epoch whose weights were kept, from 1; 0 for the start.
        before: Mean held-out loss of the start.
        after: Mean held-out loss of the kept weights.
    """

    epoch: int
    before: float
    after: float


class BestWeights:
    """Keeps the weights of the epoch with the least mean held-out loss.

    The network is measured through a copy, so that training is the same with and without a choice.

    Args:
        model: The network with the weights before the first epoch, on its device.
        judge: Measures a network.
        margin: Least gain for which the start is left.

    Attributes:
        epoch: Epoch of the best weights so far; 0 if no epoch was measured.
        weights: The best weights; None for epoch 0.
        losses: Their losses; None for epoch 0.
    """

    def __init__(self, model: nn.Module, judge: Judge, margin: Margin = CERTAIN_GAIN) -> None:
        self._copy, self._judge, self._margin = copy_network(model), judge, margin
        self._start = state_of(model)
        self._start_losses = judge(self._copy)
        self.epoch = 0
        self.weights: dict[str, Tensor] | None = None
        self.losses: Tensor | None = None

    def after_epoch(self, epoch: int, model: nn.Module) -> float:
        """Measure the network after an epoch, and keep its weights if its loss is the least so far.

        Returns:
            The mean held-out loss.
        """
        load_state(self._copy, state_of(model))
        losses = self._judge(self._copy)
        mean = float(losses.mean())
        if self.losses is None or mean < float(self.losses.mean().nan_to_num(torch.inf)):
            self.epoch, self.losses, self.weights = epoch, losses, state_of(self._copy)
        return mean

    def tensors(self) -> dict[str, Tensor]:
        """Return what ``restore`` needs; nothing before the first measured epoch."""
        if self.weights is None or self.losses is None:
            return {}
        weights = {f"{_WEIGHTS}{name}": tensor for name, tensor in self.weights.items()}
        return {_EPOCH: torch.tensor(self.epoch), _LOSSES: self.losses, **weights}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the best weights to those of ``tensors``."""
        if tensors:
            self.epoch, self.losses = int(tensors[_EPOCH]), tensors[_LOSSES]
            weights = {name: tensor for name, tensor in tensors.items() if name.startswith(_WEIGHTS)}
            self.weights = {name.removeprefix(_WEIGHTS): tensor for name, tensor in weights.items()}

    def choose(self, model: nn.Module) -> Selection:
        """Load the chosen weights into the network."""
        before = float(self._start_losses.mean())
        if self.weights is None or self.losses is None or not self._gain(self.losses):
            load_state(model, self._start)
            return Selection(0, before, before)
        load_state(model, self.weights)
        return Selection(self.epoch, before, float(self.losses.mean()))

    def _gain(self, losses: Tensor) -> bool:
        return bool(torch.isfinite(losses).all()) and gains(self._start_losses, losses, self._margin)
