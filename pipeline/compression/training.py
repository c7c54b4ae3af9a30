"""Train a compressed network on the caller's images, with the original network as its teacher."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.compression.images import CallerImages
from pipeline.compression.splits import TensorSplit
from pipeline.data.dataset import batches_of_epoch
from pipeline.errors import DataError, OptionsError
from pipeline.runtime.progress import Progress
from pipeline.runtime.single_process import SingleProcess
from pipeline.stages.evaluate import EVALUATION_BATCH, evaluate
from pipeline.stages.target import MAX_LOSS
from pipeline.stages.train import TrainingSummary
from pipeline.store.entry import state_of
from pipeline.training.features import feature_loss
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from pipeline.training.step import TrainingBatch
from pipeline.training.teacher import Teacher
from quant.stepped_training import RateControl

logger = logging.getLogger(__name__)

JUDGED_IMAGES: Final = 500
"""Training images on which a network is judged before and after its training."""
IMITATION_WEIGHT: Final = 10.0
"""Weight of the squared difference from the teacher's outputs, as a share of their variance."""
MANY_STEPS: Final = 2000
"""Steps from which a training has its full learning rate. Below, the rate falls in proportion: two networks of three
convolutions on 1,400 digits trained best at 0.003 to 0.01 in 33 and 110 steps, and at 0.06 became worse.
"""


def schedule_of(images: CallerImages, epochs: int, lr: float | None, peak: float, batch_size: int) -> Schedule:
    """Return the schedule of a training.

    Args:
        images: The caller's images.
        epochs: Passes over the images.
        lr: The caller's peak learning rate, or None.
        peak: The default for trainings of ``MANY_STEPS`` steps or more.
        batch_size: Images per step.
    """
    steps = epochs * batches_of_epoch(len(images.training), batch_size)
    return Schedule(epochs, lr or peak * min(1.0, steps / MANY_STEPS), batch_size)


def check_training(network: nn.Module, output: Any, images: CallerImages) -> CallerImages:
    """Check that a network can be trained on the images.

    Args:
        network: The network.
        output: Its output for some images.
        images: The caller's images.

    Returns:
        The images, without labels that no loss can use: the outputs are not logits of shape (N, classes).

    Raises:
        OptionsError: The network has no parameter to train, or its output is no tensor.
        DataError: A label is not among the classes.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise OptionsError(
            "epochs: no parameter of the network requires a gradient; allowed: one at least, or epochs=0"
        )
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise OptionsError(
            f"epochs: got a network that returns a {type(output).__name__}; allowed: a tensor of floats, or epochs=0"
        )
    if images.labels is None or output.ndim != 2:
        return replace(images, labels=None)
    least, most = int(images.labels.min()), int(images.labels.max())
    if least < 0 or most >= output.shape[1]:
        raise DataError(
            f"images: got labels from {least} to {most} for outputs of {output.shape[1]} classes; allowed: 0 to "
            f"{output.shape[1] - 1}, or images without labels"
        )
    return images


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains networks like one original.

    Attributes:
        original: The uncompressed network, in evaluation mode, on the device. It is the teacher.
        images: The caller's images, with labels only if they are to be learned.
        schedule: Epochs, learning rate, batch size.
        seed: Seed of the order of the batches and of dropout.
        device: The device.
        progress: Shows epochs.
    """

    original: nn.Module
    images: CallerImages
    schedule: Schedule
    seed: int
    device: torch.device
    progress: Progress

    @property
    def most_loss(self) -> float:
        """Largest accepted loss of the score: points of Top-1 with labels, nothing without."""
        return 0.0 if self.images.labels is None else MAX_LOSS

    def train(
        self, model: nn.Module, title: str, *, rate: RateControl | None = None, reference: nn.Module | None = None
    ) -> TrainingSummary:
        """Train a network in place; roll back if its score falls.

        Args:
            model: The network; it is in evaluation mode afterwards.
            title: Name of the training in messages.
            rate: See ``pipeline.training.loop.train``.
            reference: The network whose score the trained one must not fall behind; None for the initial network.

        Raises:
            NumericalError: The loss became NaN or infinite.
        """
        accelerator: Any = SingleProcess(self.device)  # it has what training uses of accelerate's class
        start, before = state_of(model), self.score(reference or model)
        end = train(
            model,
            self.images.training,
            self.schedule,
            accelerator=accelerator,
            seed=self.seed,
            teacher=Teacher(self.original, accelerator, memory=0),  # no other student sees the same batches
            progress=self.progress,
            title=title,
            rate=rate,
            loss_of=imitation_loss if self.images.labels is None else None,
        )
        undone = before - self.score(model) > self.most_loss
        if undone:
            model.load_state_dict(start)
            words = "%s did harm on training images and is undone; try another lr, or more epochs"
            logger.warning(words, title)
        return TrainingSummary(end.seconds, 0 if undone else self.schedule.epochs)

    def score(self, model: nn.Module) -> float:
        """Score a network on the first training images; higher is better.

        Returns:
            Top-1 in percent if the images have labels; otherwise the relative error of the outputs against the
            original's, negated.
        """
        if self.images.labels is not None:
            return evaluate(model, self._judged, device=self.device).top1
        difference, size = 0.0, 0.0
        with torch.no_grad():
            for (x, _), wanted in zip(
                self._judged.batches(EVALUATION_BATCH, device=self.device), self._wanted, strict=True
            ):
                difference += float((model.eval()(x) - wanted).double().square().sum())
                size += float(wanted.double().square().sum())
        return -((difference / size) ** 0.5) if size else -difference

    @cached_property
    def _judged(self) -> TensorSplit:
        return TensorSplit(self.images.calibration, self.images.labels).part(0, JUDGED_IMAGES)

    @cached_property
    def _wanted(self) -> list[Tensor]:
        """The original's outputs for the judged images."""
        with torch.no_grad():
            return [self.original(x) for x, _ in self._judged.batches(EVALUATION_BATCH, device=self.device)]


def imitation_loss(outputs: Tensor, features: Sequence[Tensor], batch: TrainingBatch) -> Tensor:
    """Return the squared difference from the teacher's outputs and features, as a share of their variance.

    It needs no labels, and takes outputs of any shape: logits, embeddings, maps.

    Args:
        outputs: Outputs of the network, (N, ...).
        features: Its features; see ``pipeline.training.features``.
        batch: The batch, with the teacher's output.

    Source:
        Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv 1312.6184.
    """
    target = batch.target
    assert target is not None
    loss = IMITATION_WEIGHT * feature_loss([outputs], [target.logits])
    return loss + batch.feature_weight * feature_loss(features, target.features) if batch.feature_weight else loss
