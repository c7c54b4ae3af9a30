"""Measure whether the uncompressed network knows mirror images, which decides whether training shows them."""

from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import nn

from pipeline.data.dataset import Split
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import EVALUATION_BATCH, Evaluation, evaluate_together, measure, measure_together
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey

MIRROR_LOSS: Final = 5.0
"""Most points of Top-1 that the network may lose on mirror images for training to show them: docs/training.md."""

LEARNED: Final = 99.0
"""Least Top-1 on images and on mirror images with which a teacher shows the means of both: docs/training.md."""


@dataclass(frozen=True)
class Mirroring:
    """Top-1 of the uncompressed network on held-out training images, in percent.

    Attributes:
        plain: On the images as they are.
        mirrored: On the images mirrored left to right.
    """

    plain: float
    mirrored: float

    @property
    def suits(self) -> bool:
        """True if training may mirror images."""
        return self.mirrored >= self.plain - MIRROR_LOSS

    @property
    def learned(self) -> bool:
        """True if the network has learned the images and their mirror images."""
        return min(self.plain, self.mirrored) >= LEARNED

    @property
    def note(self) -> str:
        """A sentence for the log; the report has it if training shows no mirror images."""
        shown = "mirror images, too" if self.suits else "no mirror images"
        return (
            f"training shows {shown}, because the network has a Top-1 of {self.mirrored:.2f} on mirrored training "
            f"images, and {self.plain:.2f} on the same images as they are"
        )


def mirroring_key(context: RunContext, digest: str) -> StageKey | None:
    """Return the stage that measures a network on mirror images; None if no training mirrors images.

    Args:
        context: The run.
        digest: The network's digest.
    """
    if not context.data.train.flip or not (context.options.epochs or context.options.qat_epochs):
        return None
    key = context.store.key("mirroring", network=digest, data=context.data.train.digest)
    return StageKey("baseline: Top-1 on mirror images", key)


def mirroring_once(context: RunContext, model: nn.Module, digest: str) -> Mirroring | None:
    """Measure a network on held-out training images and their mirror images, or read the figures from the store.

    Args:
        context: The run.
        model: The network, on the run's device and in evaluation mode.
        digest: Its digest.

    Returns:
        The figures; None if no training mirrors images.
    """

    def measured_mirrored(part: Split) -> Evaluation:
        with torch.no_grad():
            return measure(lambda x: model(x.flip(3)), part.batches(EVALUATION_BATCH, device=context.device))

    def compute() -> Entry:
        images, processes = context.images.held_out, context.processes
        plain = evaluate_together(model, images, processes).top1
        return Entry({}, asdict(Mirroring(plain, measure_together(measured_mirrored, images, processes).top1)))

    stage = mirroring_key(context, digest)
    return None if stage is None else Mirroring(**context.store.once(stage, compute)[0].metadata)


def stored_mirroring(context: RunContext, digest: str) -> Mirroring | None:
    """Return the figures of ``mirroring_once`` if they are in the store."""
    stage = mirroring_key(context, digest)
    entry = None if stage is None else context.store.find(stage.key)
    return None if entry is None else Mirroring(**entry.metadata)
