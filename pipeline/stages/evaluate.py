"""Measure Top-1 in float32, without autocast."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.data.dataset import Dataset, Images, Split
from pipeline.runtime.device import placed
from pipeline.runtime.processes import Processes
from pipeline.stages.context import RunContext
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey

EVALUATION_BATCH: Final = 250
# Limits of the images whose logits are compared after a reload: batches of EVALUATION_BATCH, and bytes.
MAX_RELOADED_BATCHES: Final = 2
MAX_RELOADED_BYTES: Final = 100_000_000


@dataclass(frozen=True)
class Evaluation:
    """The outputs of a network on a set of labelled images.

    Attributes:
        correct: Number of correct predictions.
        total: Number of images.
        logits: float32, (images, classes), on the CPU.
        labels: int64, (images,), on the CPU.
    """

    correct: int
    total: int
    logits: Tensor
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def top1(self) -> float:
        """Correct predictions in percent."""
        return 100 * self.correct / self.total


NOTHING: Final = Evaluation(0, 0, torch.empty(0))
"""The evaluation of no images."""


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, *, device: torch.device) -> Evaluation:
    """Run a network over images in their stored order.

    Args:
        model: The network; it is moved to the device and set to evaluation mode.
        images: Images and labels.
        device: The device to run on.
    """
    return measure(placed(model, device).eval(), images.batches(EVALUATION_BATCH, device=device))


def measure(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Compare the predictions of any function with the labels.

    Args:
        predict: Images, (N, C, H, W) -> logits, (N, classes).
        batches: Pairs of images and labels, (N,).
    """
    outputs, found, correct, total = [], [], 0, 0
    for x, labels in batches:
        logits = predict(x).float()
        correct += int((logits.argmax(dim=1) == labels).sum())
        total += len(x)
        outputs.append(logits.cpu())
        found.append(labels.cpu())
    return Evaluation(correct, total, torch.cat(outputs), torch.cat(found)) if outputs else NOTHING


def evaluate_together(model: nn.Module, images: Split, processes: Processes) -> Evaluation:
    """Run a network over images that the ranks share, each on its own device; see ``measure_together``."""
    return measure_together(lambda part: evaluate(model, part, device=processes.device), images, processes)


def measure_together(measure_part: Callable[[Split], Evaluation], images: Split, processes: Processes) -> Evaluation:
    """Let each rank measure its part of the images, in the batches of a single process.

    Args:
        measure_part: Measures one rank's part, for example ``evaluate``. It calls no method of `processes`.
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
        own = measure_part(part) if len(part) else NOTHING
    correct = int(processes.sum(torch.tensor(own.correct)))
    return Evaluation(correct, len(images), processes.gather(own.logits), processes.gather(own.labels))


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

    def compute() -> Entry:
        return Entry(metadata={"top1": evaluate_together(model, context.data.test, context.processes).top1})

    entry, _ = context.store.once(stage, compute)
    top1: float = entry.metadata["top1"]
    return top1


def images_to_reload(data: Dataset) -> int:
    """Return how many test images are compared after a reload: whole batches, two unless the images are large."""
    height, width = data.image_size
    batches = MAX_RELOADED_BYTES // (EVALUATION_BATCH * data.normalization.channels * height * width * 4)
    return min(len(data.test), EVALUATION_BATCH * max(1, min(MAX_RELOADED_BATCHES, batches)))
