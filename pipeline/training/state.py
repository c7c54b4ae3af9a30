"""Checkpoints of training: resumed training equals uninterrupted training, bit for bit on the CPU."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.signals import Interruption
from pipeline.store.entry import Entry, fits, load_state, state_of
from pipeline.training.selection import BestWeights, Selection

logger = logging.getLogger(__name__)

SECONDS_BETWEEN: Final = 120.0
"""Seconds between two checkpoints within an epoch."""
_MODEL, _OPTIMIZER, _RANDOM, _BEST = "model.", "optimizer.", "random.", "best."
_STEP = "step"  # a key of Adam's state


@dataclass(frozen=True)
class EpochFigures:
    """The figures of an epoch.

    Attributes:
        epoch: Its number, from 1.
        loss: Mean loss of its steps.
        lr: Learning rate of its last step.
        held_out: Mean loss on held-out images after it; None if none are held out.
    """

    epoch: int
    loss: float
    lr: float
    held_out: float | None = None


@dataclass(frozen=True)
class TrainingLabel:
    """The name of a training in metrics.

    Attributes:
        network: The network: ``baseline``, or basis and config.
        stage: ``training``, ``finetune``, ``qat``, or ``rounding`` for a target.
        bits: The width of quantization-aware training; None for float training.
    """

    network: str
    stage: str
    bits: int | None = None


@dataclass
class TrainingProgress:
    """The progress of a training.

    Attributes:
        epoch: Number of finished epochs.
        batch: Number of finished batches of the current epoch.
        per_epoch: Number of batches in an epoch.
        loss: Sum of the losses of the finished batches of the current epoch.
        curve: The figures of the finished epochs.
        seconds: Duration so far, interruptions excluded.
        selection: The chosen weights of a finished training; None without a choice.
    """

    epoch: int = 0
    batch: int = 0
    per_epoch: int = 1
    loss: float = 0.0
    curve: list[EpochFigures] = field(default_factory=list)
    seconds: float = 0.0
    selection: Selection | None = None

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self.epoch * self.per_epoch + self.batch

    @property
    def epoch_of_last_step(self) -> int:
        """Number, from 1, of the epoch of the last step."""
        return self.epoch + (self.batch > 0)

    def count(self, loss: float, lr: float) -> None:
        """Count a finished step."""
        self.batch, self.loss = self.batch + 1, self.loss + loss
        if self.batch == self.per_epoch:
            self.epoch += 1
            self.curve.append(EpochFigures(self.epoch, self.loss / self.per_epoch, lr))
            self.batch, self.loss = 0, 0.0

    def judge(self, held_out: float) -> None:
        """Add the mean held-out loss to the figures of the epoch that just ended."""
        self.curve[-1] = replace(self.curve[-1], held_out=held_out)


class Checkpoint(Protocol):
    """Storage of one checkpoint."""

    def read(self) -> Entry | None:
        """Return the last checkpoint, or None."""

    def save(self, entry: Entry) -> None:
        """Replace the checkpoint."""


class Checkpointer:
    """Saves checkpoints after every epoch, every ``SECONDS_BETWEEN`` within it, and on a stop request.

    Args:
        checkpoint: Storage of the checkpoint; None saves nothing.
        model: The trained network.
        optimizer: Its moments of the gradients are part of the checkpoint.
        random: Its state is part of the checkpoint.
        title: Name of the training in messages.
        on_epoch: Called once with the figures of every epoch, on resuming for all epochs before the checkpoint.
        best: The best weights so far are part of the checkpoint; None if the last epoch's weights are kept.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        random: RandomStream,
        title: str,
        on_epoch: Callable[[EpochFigures], None],
        best: BestWeights | None = None,
    ) -> None:
        """Start the clock; nothing is read or written."""
        self._checkpoint, self._title, self._on_epoch = checkpoint, title, on_epoch
        self._state, self._best = (model, optimizer, random), best
        self._before, self._started = 0.0, time.monotonic()
        self._saved = self._started

    def resume(self, per_epoch: int) -> TrainingProgress:
        """Restore the last checkpoint; without one, return the progress of a new training."""
        entry = self._checkpoint.read() if self._checkpoint else None
        position = restore(entry, *self._state, self._best) if entry else None
        if position is None:
            return TrainingProgress(per_epoch=per_epoch)
        logger.info("%s: goes on after %d epochs and %d batches", self._title, position.epoch, position.batch)
        self._before = position.seconds
        for figures in position.curve:
            self._on_epoch(figures)
        return position

    def after_step(self, position: TrainingProgress, stop: Interruption) -> None:
        """Save a checkpoint if one is due, and end training on a stop request.

        Raises:
            BaseException: The reason of the interruption.
        """
        ended = position.batch == 0
        if ended:
            self._on_epoch(position.curve[-1])
        if ended or stop.requested or time.monotonic() - self._saved > SECONDS_BETWEEN:
            self._save(position)
        stop.check()

    def timed(self, position: TrainingProgress) -> TrainingProgress:
        """Set the duration of the whole training, the part before the checkpoint included."""
        position.seconds = self._before + time.monotonic() - self._started
        return position

    def _save(self, position: TrainingProgress) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(capture(*self._state, self.timed(position), self._best))
            self._saved = time.monotonic()


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: RandomStream,
    position: TrainingProgress,
    best: BestWeights | None = None,
) -> Entry:
    """Copy the state of training.

    It has the weights, buffers, moments of the gradients, random states, progress and the best weights so far.
    """
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in state_of(model).items()}
    for name, parameter in _trained(model):
        for kind, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):  # SGD has no momentum before its first step
                tensors[f"{_OPTIMIZER}{kind}.{name}"] = value.detach().cpu().clone().contiguous()
    tensors |= {f"{_RANDOM}{kind}": state.cpu() for kind, state in random.state.items()}
    tensors |= {f"{_BEST}{name}": tensor for name, tensor in (best.tensors() if best else {}).items()}
    return Entry(tensors, asdict(position))


def restore(
    entry: Entry,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: RandomStream,
    best: BestWeights | None = None,
) -> TrainingProgress | None:
    """Restore the state that ``capture`` copied.

    Returns:
        The progress; None, with nothing changed, if the entry belongs to another network or device.
    """
    state, moments, generators = (_part(entry, prefix) for prefix in (_MODEL, _OPTIMIZER, _RANDOM))
    if not fits(model, state) or generators.keys() != random.state.keys():
        return None
    load_state(model, state)
    parameters = dict(_trained(model))
    for key, value in moments.items():
        kind, _, name = key.partition(".")
        # Adam counts its steps on the CPU.
        own = value if kind == _STEP else torch.empty_like(parameters[name]).copy_(value)
        optimizer.state[parameters[name]][kind] = own
    random.state = generators
    if best is not None:
        best.restore(_part(entry, _BEST))
    position = TrainingProgress(**entry.metadata)
    position.curve = [EpochFigures(**figures) for figures in entry.metadata["curve"]]
    return position


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _part(entry: Entry, prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in entry.tensors.items() if name.startswith(prefix)}
