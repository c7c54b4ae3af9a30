"""Fine-tuning and quantization-aware training: run once, resume from checkpoints, keep the best weights."""

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from basis.modes import evaluating
from pipeline.runtime.device import placed
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import evaluate_together
from pipeline.store.entry import Entry, load_state, state_of
from pipeline.store.store import StageKey
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from pipeline.training.selection import CERTAIN_GAIN, BestWeights, Margin
from pipeline.training.state import EpochFigures, TrainingLabel
from pipeline.training.teacher import Teacher
from quant.stepped_training import RateControl

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSummary:
    """The outcome of a training.

    Attributes:
        seconds: Duration when it was computed, in this run or before.
        epoch: Epoch whose weights were kept, 0 for the weights before it; None without training.
        loss_before: Mean loss on held-out training images before it, see ``held_out_losses``; None without training,
            and for a network that is rounded to steps.
        loss_after: The same of the kept weights.
        fault: Reason of a rollback other than the held-out losses, for the report; None without one.
    """

    seconds: float = 0.0
    epoch: int | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    fault: str | None = None

    @property
    def undone(self) -> bool:
        """True if it was rolled back."""
        return self.epoch == 0

    def rolled_back(self, fault: str) -> "TrainingSummary":
        """Return the summary of the same training without its weights.

        Args:
            fault: Reason, as the predicate of a sentence about the training.
        """
        return replace(self, epoch=0, loss_after=self.loss_before, fault=fault)


@dataclass(frozen=True)
class TrainingJob:
    """A training of one network.

    Attributes:
        stage: Its name and cache key.
        label: Its name in metrics.
        schedule: Epochs, learning rate, batch size.
        teacher: The uncompressed network; None trains on labels only.
        first_epoch: Number of the first epoch, which decides the order and augmentation of the batches.
        margin: Least gain over the start.
        mirrored: False for a training that mirrors no images, although the data allow it.
    """

    stage: StageKey
    label: TrainingLabel
    schedule: Schedule
    teacher: Teacher | None = None
    first_epoch: int = 0
    margin: Margin = CERTAIN_GAIN
    mirrored: bool = True


def training_job(
    context: RunContext,
    name: str,
    label: TrainingLabel,
    start: str,
    schedule: Schedule,
    *,
    teacher: Teacher | None = None,
    first_epoch: int = 0,
    margin: Margin = CERTAIN_GAIN,
    mirrored: bool = True,
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
        margin: See ``TrainingJob``.
        mirrored: See ``TrainingJob``.
    """
    key = context.store.key(
        "training",
        start=start,
        data=context.data.train.digest,
        schedule=asdict(schedule),
        seed=context.options.seed,
        first_epoch=first_epoch,
        margin=asdict(margin),
        teacher=None if teacher is None else [teacher.digest, teacher.mirrored],
        mirrored=mirrored,
    )
    return TrainingJob(StageKey(name, key), label, schedule, teacher, first_epoch, margin, mirrored)


def train_once(
    context: RunContext,
    model: nn.Module,
    job: TrainingJob,
    *,
    rate: RateControl | None = None,
) -> TrainingSummary:
    """Train a network in place, or load the stored result of the same training.

    Training resumes from its last checkpoint. The weights of the epoch with the least loss on held-out training images
    are kept. If they gain too little, training is rolled back. With ``rate``, the weights of the last epoch are kept:
    only after it does the file have its size. The caller then decides on a rollback.

    Args:
        context: The run.
        model: The initial network; it is trained, on the run's device and in evaluation mode afterwards.
        job: The training, of one epoch or more.
        rate: See ``pipeline.training.loop.train``.

    Raises:
        NumericalError: The loss became NaN or infinite.
        BusyError: Another process computes the same training and did not finish in time.
        BaseException: The reason of the interruption.
    """

    def compute() -> Entry:
        best = BestWeights(model, partial(held_out_losses, context), job.margin) if rate is None else None
        end = train(
            model,
            context.images.trained if job.mirrored else context.images.trained.unmirrored(),
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
            best=best,
        )
        chosen = asdict(end.selection) if end.selection else {"epoch": job.schedule.epochs}
        curve = [asdict(each) for each in end.curve]
        return Entry(state_of(model), {"chosen": chosen, "curve": curve}, end.seconds)

    entry, cached = context.store.once(job.stage, compute)
    if cached or context.processes.count > 1:
        load_state(model, entry.tensors)
    if cached:
        _replay(context, job, entry)
    evaluating(placed(model, context.device))
    return _summary(context, job, entry)


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


def held_out_losses(context: RunContext, model: nn.Module) -> Tensor:
    """Measure a network on the held-out training images; it is moved to the run's device and set to evaluation mode.

    Returns:
        Cross-entropy of every image with its label, in nats: float64, (images,), the same on every rank.
    """
    context.processes.share_buffers(placed(model, context.device))
    return evaluate_together(model, context.images.held_out, context.processes).losses


def _summary(context: RunContext, job: TrainingJob, entry: Entry) -> TrainingSummary:
    chosen: dict[str, Any] = entry.metadata["chosen"]
    summary = TrainingSummary(entry.seconds, chosen["epoch"], chosen.get("before"), chosen.get("after"))
    if summary.undone:
        words = "%s: no epoch lowered the loss on %d held-out training images enough; the weights before it are kept"
        logger.info(words, job.stage.name, len(context.images.held_out))
    return summary
