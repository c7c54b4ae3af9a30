"""Train a compressed network on the caller's images, with the original network as its teacher."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from basis.copying import copy_network
from basis.devices import device_of
from basis.modes import evaluating
from pipeline.compression.checks import check_labels
from pipeline.compression.images import CallerImages
from pipeline.compression.splits import LoaderSplit, TensorSplit
from pipeline.data.dataset import TrainingImages
from pipeline.errors import OptionsError
from pipeline.models.checks.layers import refuse_substituted
from pipeline.models.outputs import are_logits
from pipeline.runtime.device import placed
from pipeline.runtime.progress import Progress
from pipeline.runtime.single_process import SingleProcess
from pipeline.stages.evaluate import EVALUATION_BATCH, evaluate
from pipeline.stages.network import CHECKED_IMAGES
from pipeline.stages.targets.compressor import MAX_LOSS
from pipeline.stages.train import TrainingSummary
from pipeline.training.features import feature_loss
from pipeline.training.loop import train
from pipeline.training.output_values import warn_of_mode
from pipeline.training.schedule import Schedule
from pipeline.training.selection import BestWeights, HoldOut, hold_out, margin_of
from pipeline.training.step import TrainingBatch, refuse_masked
from pipeline.training.teacher import Teacher
from pipeline.training.trial import check_rounded_training, check_single_image, check_trainable
from quant.stepped_training import RateControl

logger = logging.getLogger(__name__)

IMITATION_WEIGHT: Final = 10.0
"""Weight of the squared difference from the teacher's outputs, as a share of their variance."""


def check_training(
    network: nn.Module, output: Any, images: CallerImages, batch_size: int, *, through_rounding: bool
) -> CallerImages:
    """Check that a network can be trained on the images.

    Args:
        network: The network, on the device that computes.
        output: Its output for some images.
        images: The caller's images.
        batch_size: Images per training step, for images without batches of their own.
        through_rounding: True if the training is one of a target.

    Returns:
        The images, without labels if the outputs are no logits, see ``pipeline.models.outputs.are_logits``.

    Raises:
        OptionsError: The network has no parameter to train, or its output has no gradient or is no tensor. Or it cannot
            be trained on batches of one image or through the rounding.
        DataError: A label is not among the classes, or of a class that the network masks.
    """
    if through_rounding:
        refuse_substituted(network)
    checked = images.calibration[:CHECKED_IMAGES].to(device_of(network))
    loader = images.training.source if isinstance(images.training, LoaderSplit) else None
    size = batch_size if loader is None else getattr(loader, "batch_size", None)
    if size == 1:
        check_single_image(copy_network(network), checked[:1], "epochs: got batches of one image")
    if len(divided(images).trained) == 1:
        cause = f"epochs: got {len(images.training)} images and trains on one of them"
        check_single_image(copy_network(network), checked[:1], cause, "3 images or more")
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"tensor of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise OptionsError(f"epochs: got a network that returns a {got}; allowed: a tensor of floats, or epochs=0")
    check_trainable(copy_network(network), checked, "epochs=0")
    if through_rounding:
        check_rounded_training(copy_network(network), checked)
    labelled = images.labels is not None and are_logits(output)
    if images.labels is not None and output.ndim == 2 and not labelled:
        logger.warning("images: the labels are left out, because the network gives one value for each image")
    warn_of_mode(copy_network(network), checked, labelled=labelled)
    if images.labels is None or not labelled:
        return replace(images, labels=None)
    classes = output.shape[1]
    split = images.training
    labels = images.labels if not isinstance(split, TensorSplit) or split.labels is None else split.labels
    check_labels(labels, classes)
    refuse_masked(output, labels.to(output.device))
    if isinstance(split, LoaderSplit):
        images = replace(images, training=replace(split, classes=classes))
    return images


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains networks like one original.

    Attributes:
        original: The uncompressed network, in evaluation mode, on the device. It is the teacher.
        images: Training images in two parts; see ``divided``.
        labelled: True if labels are learned, too.
        schedule: Epochs, learning rate, batch size.
        seed: Seed of the order of the batches and of dropout.
        device: The device.
        progress: Shows epochs.
    """

    original: nn.Module
    images: HoldOut[TrainingImages, TensorSplit]
    labelled: bool
    schedule: Schedule
    seed: int
    device: torch.device
    progress: Progress

    @property
    def most_loss(self) -> float:
        """Largest accepted loss of the score: points of Top-1 with labels, nothing without."""
        return MAX_LOSS if self.labelled else 0.0

    def train(self, model: nn.Module, title: str, *, rate: RateControl | None = None) -> TrainingSummary:
        """Train a network in place; see ``pipeline.stages.train.train_once`` for the choice of its weights.

        Args:
            model: The network; it is in evaluation mode afterwards.
            title: Name of the training in messages.
            rate: See ``pipeline.training.loop.train``. The caller then chooses between start and end.

        Raises:
            NumericalError: The loss became NaN or infinite.
        """
        accelerator: Any = SingleProcess(self.device)  # it has what training uses of accelerate's class
        # Only with labels can the original know the held-out images: without, the loss compares with its outputs.
        margin = margin_of(self.schedule, len(self.images.trained), seen=self.labelled)
        end = train(
            model,
            self.images.trained,
            self.schedule,
            accelerator=accelerator,
            seed=self.seed,
            teacher=Teacher(self.original, accelerator, memory=0),  # no other student sees the same batches
            progress=self.progress,
            title=title,
            rate=rate,
            best=BestWeights(placed(model, self.device), self.losses, margin) if rate is None else None,
            loss_of=None if self.labelled else imitation_loss,
        )
        if end.selection is None:
            return TrainingSummary(end.seconds, self.schedule.epochs)
        chosen = end.selection
        if chosen.epoch == 0:
            words = "%s: no epoch lowered the loss on %d images enough, so it is undone; try another lr, or more epochs"
            logger.warning(words, title, len(self.images.held_out))
        return TrainingSummary(end.seconds, chosen.epoch, chosen.before, chosen.after)

    def losses(self, model: nn.Module) -> Tensor:
        """Measure a network on the held-out images.

        Returns:
            float64, (images,): cross-entropy in nats if labels are learned; otherwise the squared difference from the
            original's outputs, as a share of their mean square.
        """
        if self.labelled:
            return evaluate(model, self.images.held_out, device=self.device).losses
        difference = (self._outputs(model) - self._wanted).square().sum(1)
        return difference / self._wanted.square().sum(1).mean().clamp_min(torch.finfo(torch.float64).tiny)

    def score(self, model: nn.Module) -> float:
        """Score a network on the held-out images: Top-1 in percent, or without labels the negated mean loss."""
        if self.labelled:
            return evaluate(model, self.images.held_out, device=self.device).top1
        return -float(self.losses(model).mean())

    @cached_property
    def _wanted(self) -> Tensor:
        return self._outputs(self.original)

    @torch.no_grad()
    def _outputs(self, model: nn.Module) -> Tensor:
        """Return the outputs for the held-out images, float64, (images, values), on the CPU; 0 in place of -inf."""
        model = evaluating(placed(model, self.device))
        batches = self.images.held_out.batches(EVALUATION_BATCH, device=self.device)
        outputs = torch.cat([model(x).double().reshape(len(x), -1).cpu() for x, _ in batches])
        return outputs.masked_fill(outputs == -torch.inf, 0)


def divided(images: CallerImages) -> HoldOut[TrainingImages, TensorSplit]:
    """Hold out some of the images, which only choose between weights; see ``pipeline.training.selection.hold_out``.

    A loader decides by itself what it yields. Its first images then choose, though they are trained on.
    """
    if isinstance(images.training, TensorSplit):
        trained, held_out = hold_out(images.training.mixed())
        return HoldOut(trained, held_out)
    return HoldOut(images.training, TensorSplit(images.calibration, images.labels))


def imitation_loss(outputs: Tensor, features: Mapping[str, Tensor], batch: TrainingBatch) -> Tensor:
    """Return the squared difference from the teacher's outputs and features, as a share of their variance.

    It needs no labels, and takes outputs of any shape: logits, embeddings, maps.

    Args:
        outputs: Outputs of the network, (N, ...). Where the teacher has -inf, they are not compared.
        features: Its features; see ``pipeline.training.features``.
        batch: The batch, with the teacher's output.

    Source:
        Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv 1312.6184.
    """
    target = batch.target
    assert target is not None
    masked = target.logits == -torch.inf  # a masked class
    wanted = target.logits.masked_fill(masked, 0)
    loss = IMITATION_WEIGHT * feature_loss({"": outputs.masked_fill(masked, 0)}, {"": wanted})
    return loss + batch.feature_weight * feature_loss(features, target.features) if batch.feature_weight else loss
