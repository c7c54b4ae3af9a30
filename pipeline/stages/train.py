"""Fine-tuning and quantization-aware training: run once, resume from checkpoints, roll back training that does harm."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from torch import Tensor, nn

from pipeline.runtime.device import placed
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import evaluate
from pipeline.store.entry import Entry, state_of
from pipeline.store.store import StageKey
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from pipeline.training.state import EpochFigures, TrainingLabel
from pipeline.training.teacher import Teacher
from quant.stepped_training import RateControl

logger = logging.getLogger(__name__)

# Training is rolled back if Top-1 on the first JUDGED_IMAGES training images falls by more than MAX_LOSS points.
MAX_LOSS: Final = 1.0
JUDGED_IMAGES: Final = 500


@dataclass(frozen=True)
class TrainingSummary:
    """The outcome of a training.

    Attributes:
        seconds: Duration when it was computed, in this run or before.
        undone: True if it was rolled back.
    """

    seconds: float = 0.0
    undone: bool = False


@dataclass(frozen=True)
class TrainingJob:
    """A training of one network.

    Attributes:
        stage: Its name and cache key.
        label: Its name in metrics.
        schedule: Epochs, learning rate, batch size.
        teacher: The uncompressed network; None trains on labels only.
        first_epoch: Number of the first epoch, which decides the order and augmentation of the batches.
    """

    stage: StageKey
    label: TrainingLabel
    schedule: Schedule
    teacher: Teacher | None = None
    first_epoch: int = 0


def training_job(
    context: RunContext,
    name: str,
    label: TrainingLabel,
    start: str,
    schedule: Schedule,
    *,
    teacher: Teacher | None = None,
    first_epoch: int = 0,
) -> TrainingJob:
    """Return a training with its cache key.

    Args:
        context: The run.
        name: Its name in messages.
        label: Its name in metrics.
        start: The key of the stage that made the initial network, or the network's digest.
        schedule: Epochs, learning rate, batch size.
        teacher: See ``TrainingJob``.
        first_epoch: See ``TrainingJob``.
    """
    key = context.store.key(
        "training",
        start=start,
        data=context.data.train.digest,
        schedule=asdict(schedule),
        seed=context.options.seed,
        first_epoch=first_epoch,
        teacher=None if teacher is None else teacher.digest,
    )
    return TrainingJob(StageKey(name, key), label, schedule, teacher, first_epoch)


def train_once(
    context: RunContext,
    model: nn.Module,
    job: TrainingJob,
    *,
    rate: RateControl | None = None,
    reference: nn.Module | None = None,
) -> TrainingSummary:
    """Train a network in place, or load the stored result of the same training.

    Training resumes from its last checkpoint. Training that loses more than ``MAX_LOSS`` points of Top-1 on training
    images is rolled back with a warning.

    Args:
        context: The run.
        model: The initial network; it is trained, on the run's device and in evaluation mode afterwards.
        job: The training, of one epoch or more.
        rate: See ``pipeline.training.loop.train``.
        reference: The network whose Top-1 the trained one must not fall behind; None for the initial network.

    Raises:
        NumericalError: The loss became NaN or infinite.
        BusyError: Another process computes the same training and did not finish in time.
        BaseException: The reason of the interruption.
    """

    def compute() -> Entry:
        start, before = state_of(model), _training_top1(context, reference or model)
        end = train(
            model,
            context.data.train,
            job.schedule,
            accelerator=context.accelerator,
            seed=context.options.seed,
            teacher=job.teacher,
            first_epoch=job.first_epoch,
            progress=context.progress,
            title=job.stage.name,
            checkpoint=context.store.checkpoint(job.stage),
            interruption=context.interruption,
            on_epoch=partial(context.tracker.epoch, job.label),
            rate=rate,
        )
        undone = _roll_back_harm(context, model, job.stage.name, start, before)
        return Entry(state_of(model), {"undone": undone, "curve": [asdict(each) for each in end.curve]}, end.seconds)

    entry, cached = context.store.once(job.stage, compute)
    if cached or context.processes.count > 1:
        model.load_state_dict(entry.tensors)
    if cached:
        _replay(context, job, entry)
    placed(model, context.device).eval()
    return TrainingSummary(entry.seconds, entry.metadata["undone"])


def replay_curve(context: RunContext, job: TrainingJob) -> None:
    """Send the stored epochs of a training to the tracker, so that it still gets the curve.

    Call it for a training whose final result was read from the store. A training that the store has lost sends nothing.
    """
    # The options decide, not the tracker: all ranks must read the store together, and only rank 0 has a tracker.
    entry = context.store.find(job.stage.key) if context.options.track else None
    if entry is not None:
        _replay(context, job, entry)


def _replay(context: RunContext, job: TrainingJob, entry: Entry) -> None:
    for figures in entry.metadata["curve"]:
        context.tracker.epoch(job.label, EpochFigures(**figures))


def _training_top1(context: RunContext, model: nn.Module) -> float:
    """Measure Top-1 on the first training images, in percent."""
    return evaluate(model, context.data.train.part(0, JUDGED_IMAGES), device=context.device).top1


def _roll_back_harm(
    context: RunContext, model: nn.Module, name: str, start: Mapping[str, Tensor], before: float
) -> bool:
    """Restore the initial weights if Top-1 on training images fell; return True if so."""
    lost = before - _training_top1(context, model)
    if lost > MAX_LOSS:
        model.load_state_dict(start)
        words = "%s lost %.1f points of Top-1 on training images and is undone; try another --lr, or more --epochs"
        logger.warning(words, name, lost)
    return lost > MAX_LOSS
