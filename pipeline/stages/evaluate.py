"""Measure Top-1, Top-5 and predictions in float32, without autocast."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from basis.modes import evaluating
from pipeline.data.dataset import Dataset, Images, Split
from pipeline.runtime.device import placed
from pipeline.runtime.processes import Processes
from pipeline.stages.context import RunContext
from pipeline.stages.predictions import Predictions
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey

EVALUATION_BATCH: Final = 250
# Limits of the images whose logits are compared after a reload: batches of EVALUATION_BATCH, and bytes.
MAX_RELOADED_BATCHES: Final = 2
MAX_RELOADED_BYTES: Final = 100_000_000
MOST_CLASSES_WITHOUT_TOP5: Final = 20  # with few classes, nearly every network has a high Top-5


@dataclass(frozen=True)
class Evaluation:
    """The outputs of a network on a set of labelled images.

    Attributes:
        logits: float32, (images, classes), on the CPU.
        labels: int64, (images,), on the CPU.
    """

    logits: Tensor
    labels: Tensor

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def correct(self) -> int:
        """Number of correct predictions."""
        return int(self.predictions.right.sum())

    @property
    def predictions(self) -> Predictions:
        """The class with the largest logit for each image, and whether it is the label."""
        classes = self.logits.argmax(dim=1)
        return Predictions(classes.int(), classes == self.labels)

    @property
    def top1(self) -> float:
        """Correct predictions in percent."""
        return 100 * self.correct / self.total

    @property
    def losses(self) -> Tensor:
        """Cross-entropy of each image with its label, in nats: float64, (images,)."""
        return functional.cross_entropy(self.logits.to(torch.float64), self.labels, reduction="none")

    @property
    def top5(self) -> float | None:
        """Images whose label is among the five largest logits, in percent; None if the classes are few."""
        if self.logits.shape[1] <= MOST_CLASSES_WITHOUT_TOP5:
            return None
        best = self.logits.topk(5, dim=1).indices
        return 100 * int((best == self.labels[:, None]).any(dim=1).sum()) / self.total


@dataclass(frozen=True)
class Measurement:
    """The figures of a network on the test images.

    Attributes:
        top1: Correct predictions in percent.
        top5: See ``Evaluation``.
        predictions: See ``Evaluation``.
    """

    top1: float
    top5: float | None
    predictions: Predictions

    @staticmethod
    def of(entry: Entry) -> "Measurement":
        """Return the measurement in an entry of the store."""
        return Measurement(entry.metadata["top1"], entry.metadata["top5"], Predictions.of(entry.tensors))


_NO_IMAGES: Final = Evaluation(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, *, device: torch.device) -> Evaluation:
    """Run a network over images in their stored order.

    Args:
        model: The network; it is moved to the device and set to evaluation mode.
        images: Images and labels.
        device: The device to run on.
    """
    return measure(evaluating(placed(model, device)), images.batches(EVALUATION_BATCH, device=device))


def measure(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Compare the predictions of any function with the labels.

    Args:
        predict: Images, (N, C, H, W) -> logits, (N, classes).
        batches: Pairs of images and labels, (N,).
    """
    outputs, known = [], []
    for x, labels in batches:
        outputs.append(predict(x).detach().float().cpu())  # a forward may enable gradients, whose maps would be kept
        known.append(labels.cpu())
    return Evaluation(torch.cat(outputs), torch.cat(known)) if outputs else _NO_IMAGES


def evaluate_together(model: nn.Module, images: Split, processes: Processes) -> Evaluation:
    """Run a network over images that the ranks share, each on its own device; see ``measure_together``."""
    return measure_together(lambda part: evaluate(model, part, device=processes.device), images, processes)


def measure_together(measure_part: Callable[[Split], Evaluation], images: Split, processes: Processes) -> Evaluation:
    """Let each rank measure its part of the images, in the batches of a single process.

    Args:
        measure_part: Measures one rank's part, for example ``evaluate``. It calls no method of ``processes``.
        images: All images, in their order.
        processes: The ranks that take part.

    Returns:
        The evaluation of all images, on every rank.
    """
    if processes.count == 1:
        return measure_part(images)
    batches = -(-len(images) // EVALUATION_BATCH)
    mine = processes.share.of(batches)
    part = images.part(mine.start * EVALUATION_BATCH, mine.stop * EVALUATION_BATCH)
    with processes.together():
        own = measure_part(part) if len(part) else _NO_IMAGES
    return Evaluation(processes.gather(own.logits), processes.gather(own.labels))


def top1_key(context: RunContext, name: str, network: str) -> StageKey:
    """Return the stage that measures a network on the test images.

    Args:
        context: The run.
        name: The network's name in messages.
        network: The key of the stage that made the network, or its digest.
    """
    return StageKey(f"{name}: Top-1", context.store.key("top1", network=network, test=context.data.test.digest))


def top1_once(context: RunContext, model: nn.Module, stage: StageKey) -> float:
    """Measure Top-1 on the test images, in percent, or read it from the store."""
    return measured_once(context, model, stage).top1


def measured_once(context: RunContext, model: nn.Module, stage: StageKey) -> Measurement:
    """Measure a network on the test images, or read its figures from the store."""

    def compute() -> Entry:
        found = evaluate_together(model, context.data.test, context.processes)
        return Entry(found.predictions.tensors(), {"top1": found.top1, "top5": found.top5})

    entry, _ = context.store.once(stage, compute)
    return Measurement.of(entry)


def images_to_reload(data: Dataset) -> int:
    """Return how many test images are compared after a reload: whole batches, two unless the images are large."""
    height, width = data.image_size
    batches = MAX_RELOADED_BYTES // (EVALUATION_BATCH * data.normalization.channels * height * width * 4)
    return min(len(data.test), EVALUATION_BATCH * max(1, min(MAX_RELOADED_BATCHES, batches)))
