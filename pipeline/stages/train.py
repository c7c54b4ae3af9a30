"""Training that is done once: what was trained from the same start on the same batches is read back from the store."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from torch import Tensor, nn

from pipeline.data.dataset import Dataset
from pipeline.runtime.device import Accelerator
from pipeline.runtime.progress import Progress
from pipeline.runtime.signals import Interruption
from pipeline.stages.evaluate import evaluate
from pipeline.store.entry import Entry, state_of
from pipeline.store.store import StageKey, Store
from pipeline.training.loop import TEACHING, OnEpoch, Schedule, train
from pipeline.training.state import EpochFigures, TrainingProgress
from pipeline.training.teacher import Teacher

logger = logging.getLogger(__name__)

# Points of Top-1 that a network may lose on training images by being trained on them, and how many of these are asked.
MOST_LOST: Final = 1.0
IMAGES_TO_JUDGE: Final = 500


@dataclass(frozen=True)
class TrainingSummary:
    """What is told of a training.

    Attributes:
        seconds: What it took, now or when it was done.
        undone: Whether it was undone, because it did harm.
    """

    seconds: float = 0.0
    undone: bool = False


@dataclass(frozen=True)
class TrainingJob:
    """Everything that training depends on besides the network that it starts from.

    Attributes:
        data: Its training images are seen.
        schedule: Epochs, learning rate, batch size.
        accelerator: Device and precision.
        seed: Order of the images, augmentation and dropout.
        teacher: The uncompressed network, or None where only the labels teach.
        first_epoch: The number of the first epoch.
    """

    data: Dataset
    schedule: Schedule
    accelerator: Accelerator
    seed: int
    teacher: Teacher | None = None
    first_epoch: int = 0

    def train(self, model: nn.Module, **told: Any) -> TrainingProgress:
        """Train a network in place; ``told`` is what ``pipeline.training.loop.train`` takes besides."""
        who = {"accelerator": self.accelerator, "seed": self.seed, "teacher": self.teacher}
        return train(model, self.data.train, self.schedule, first_epoch=self.first_epoch, **who, **told)

    def step(self, store: Store, start: str, name: str) -> StageKey:
        """The stage that it makes of a network.

        Args:
            store: Where its result is kept.
            start: What decides the network that it starts from: the key of the stage that made it, or its digest.
            name: What messages call the training.
        """
        key = store.key(
            "training",
            start=start,
            data=self.data.train.digest,
            schedule=asdict(self.schedule),
            seed=self.seed,
            first_epoch=self.first_epoch,
            teacher=None if self.teacher is None else [self.teacher.digest, *TEACHING],
        )
        return StageKey(name, key)


def train_once(
    model: nn.Module,
    course: TrainingJob,
    store: Store,
    step: StageKey,
    *,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingSummary:
    """Train a network in place, or fill it with what the same training gave before; it goes on from a checkpoint.

    Training that lost more than ``MOST_LOST`` points of Top-1 on training images is undone, with a warning.

    Args:
        model: The network to start from.
        course: How it is trained, for one epoch or more.
        store: Where results and checkpoints are.
        step: What ``course.step`` gives for the model.
        progress: Where epochs are reported.
        interruption: Asked between steps of training.
        on_epoch: Gets the figures of every epoch, whenever it was trained.

    Raises:
        CompressionError: The loss became NaN or infinite.
        BusyError: Another process does the same training, and did not end in time.
        BaseException: The interruption's reason.
    """
    shown: list[EpochFigures] = []

    def show(figures: EpochFigures) -> None:
        shown.append(figures)
        if on_epoch is not None:
            on_epoch(figures)

    def make() -> Entry:
        start = state_of(model), _seen_top1(model, course)
        told = {"progress": progress, "interruption": interruption, "on_epoch": show}
        end = course.train(model, title=step.name, checkpoint=store.checkpoint(step), **told)
        facts = {"undone": _undo_harm(model, course, step, *start), "curve": [asdict(each) for each in end.curve]}
        return Entry(state_of(model), facts, end.seconds)

    entry = store.once(step, make)
    model.load_state_dict(entry.tensors)
    model.to(course.accelerator.device).eval()
    for figures in curve_of(entry)[len(shown) :]:
        show(figures)
    return TrainingSummary(entry.seconds, entry.metadata["undone"])


def curve_of(entry: Entry) -> list[EpochFigures]:
    """The epochs of a training that is stored."""
    return [EpochFigures(**figures) for figures in entry.metadata["curve"]]


def _seen_top1(model: nn.Module, course: TrainingJob) -> float:
    """Top-1 on the first training images, in percent; the network's mode is restored."""
    training, images = model.training, course.data.train.part(0, IMAGES_TO_JUDGE)
    try:
        return evaluate(model, images, device=course.accelerator.device).top1
    finally:
        model.train(training)


def _undo_harm(
    model: nn.Module, course: TrainingJob, step: StageKey, start: Mapping[str, Tensor], before: float
) -> bool:
    """Put a network back to its start where training made it worse on images that it was trained on; says whether."""
    lost = before - _seen_top1(model, course)
    if lost > MOST_LOST:
        model.load_state_dict(start)
        words = "%s lost %.1f points of Top-1 on training images and is undone; try another --lr, or more --epochs"
        logger.warning(words, step.name, lost)
    return lost > MOST_LOST
