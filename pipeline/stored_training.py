"""Training that is done once: what was trained from the same start on the same batches is read back from the store."""

from dataclasses import asdict, dataclass

from torch import nn

from pipeline.acceleration import Accelerator
from pipeline.data.dataset import Dataset
from pipeline.interruption import Interruption
from pipeline.progress import Progress
from pipeline.store.entry import Entry, state_of
from pipeline.store.store import Step, Store
from pipeline.teacher import Teacher
from pipeline.training import FEATURE_WEIGHT, LABEL_SHARE, TEMPERATURE, OnEpoch, Schedule, train
from pipeline.training_state import EpochFigures


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

    def step(self, store: Store, start: str, name: str) -> Step:
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
            teacher=None if self.teacher is None else [self.teacher.digest, TEMPERATURE, LABEL_SHARE, FEATURE_WEIGHT],
        )
        return Step(name, key)


def train_once(
    model: nn.Module,
    course: Course,
    store: Store,
    step: Step,
    *,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
    on_epoch: OnEpoch | None = None,
) -> float:
    """Train a network in place, or fill it with what the same training gave before; it goes on from a checkpoint.

    Args:
        model: The network to start from.
        course: How it is trained, for one epoch or more.
        store: Where results and checkpoints are.
        step: What ``course.step`` gives for the model.
        progress: Where epochs are reported.
        interruption: Asked between steps of training.
        on_epoch: Gets the figures of every epoch, whenever it was trained.

    Returns:
        The seconds that training took, now or when it was done.

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
        end = train(
            model,
            course.data.train,
            course.schedule,
            accelerator=course.accelerator,
            seed=course.seed,
            teacher=course.teacher,
            first_epoch=course.first_epoch,
            progress=progress,
            title=step.name,
            checkpoint=store.checkpoint(step),
            interruption=interruption,
            on_epoch=show,
        )
        return Entry(state_of(model), {"curve": [asdict(figures) for figures in end.curve]}, end.seconds)

    entry = store.once(step, make)
    model.load_state_dict(entry.tensors)
    model.to(course.accelerator.device).eval()
    for figures in curve_of(entry)[len(shown) :]:
        show(figures)
    return entry.seconds


def curve_of(entry: Entry) -> list[EpochFigures]:
    """The epochs of a training that is stored."""
    return [EpochFigures(**figures) for figures in entry.facts["curve"]]
