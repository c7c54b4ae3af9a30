"""Training that is done once: what was trained from the same start on the same batches is read back from the store."""

import logging
import time
from dataclasses import asdict, dataclass

import torch
from torch import nn

from pipeline.acceleration import Accelerator, processes_of
from pipeline.data.dataset import Dataset
from pipeline.progress import Progress
from pipeline.store import load_stored, read_state, state_digest, store_key, write_state
from pipeline.teacher import Teacher
from pipeline.training import LABEL_SHARE, TEMPERATURE, Schedule, train

logger = logging.getLogger(__name__)

# Counted up whenever the same inputs train to something else.
VERSION = 2


@dataclass(frozen=True)
class Course:
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

    def key(self, model: nn.Module, structure: str) -> str:
        """The name under which what it makes of a network is stored."""
        return store_key(
            stage="training",
            version=VERSION,
            start=state_digest(model),
            structure=structure,
            data=self.data.digest,
            images=len(self.data.train),
            schedule=asdict(self.schedule),
            seed=self.seed,
            first_epoch=self.first_epoch,
            teacher=None if self.teacher is None else [self.teacher.digest, TEMPERATURE, LABEL_SHARE],
            precision=self.accelerator.mixed_precision,
            device=self.accelerator.device.type,
            processes=self.accelerator.num_processes,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )


def train_once(
    model: nn.Module, course: Course, *, structure: str, fresh: bool, progress: Progress | None, title: str
) -> float:
    """Train a network in place, or fill it with what the same training gave before.

    Args:
        model: The network to start from.
        course: How it is trained.
        structure: What its tensors do not tell of it: architecture, basis and orders, number format.
        fresh: Train even where the result is stored.
        progress: Where epochs are reported.
        title: What progress calls it.

    Returns:
        The seconds that training took, now or when it was done; 0 without epochs.

    Raises:
        CompressionError: The loss became NaN or infinite.
    """
    if course.schedule.epochs == 0:
        model.eval()
        return 0.0
    key, processes = course.key(model, structure), processes_of(course.accelerator)
    stored = None if fresh else processes.on_main(lambda: read_state(key))
    if stored is not None and load_stored(model, stored):
        logger.info("%s: read from the store", title)
        model.eval()
        return stored.seconds
    started = time.monotonic()
    train(
        model,
        course.data.train,
        course.schedule,
        accelerator=course.accelerator,
        seed=course.seed,
        teacher=course.teacher,
        first_epoch=course.first_epoch,
        progress=progress,
        title=title,
    )
    seconds = time.monotonic() - started
    processes.on_main(lambda: write_state(key, model, seconds))
    return seconds
