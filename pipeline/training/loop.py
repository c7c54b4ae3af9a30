"""One training loop for the baseline, for fine-tuning and for quantization-aware training."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.optim import SGD

from basis.errors import CompressionError
from basis.preconditioning import INPUT_DAMPING, preconditioned_gradients
from pipeline.data.dataset import Split, batches_of_epoch, images_at_once
from pipeline.runtime.device import Accelerator, placed, prepare, processes_of, quiet_backward, release
from pipeline.runtime.processes import Processes
from pipeline.runtime.progress import Progress, SilentProgress
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.share import WHOLE, Share
from pipeline.runtime.signals import Interruption, Terminated
from pipeline.training.features import FeatureHooks, feature_loss
from pipeline.training.state import Checkpoint, Checkpointer, EpochFigures, TrainingProgress
from pipeline.training.teacher import Teacher, TeacherOutput
from quant.fake_quantizer import FakeQuantizer

TEMPERATURE = 4.0
LABEL_SHARE = 0.4
# Weight of the imitated stages at the start; it falls in a line to zero at this share of training, whose rest follows
# the answers and labels alone: see docs/training.md.
FEATURE_WEIGHT = 30.0
IMITATED_SHARE = 0.6
# Training images that say what the layers of a taught network are given.
MOMENT_IMAGES = 256
# In fewer steps than this the moments do not pay, and all steps are those of the filters: see docs/training.md.
MOMENT_STEPS = 300
# What a taught network depends on.
TEACHING = (TEMPERATURE, LABEL_SHARE, FEATURE_WEIGHT, IMITATED_SHARE, INPUT_DAMPING, MOMENT_IMAGES, MOMENT_STEPS)
# Norm of all gradients, above which they are scaled down: networks that train well stay below it.
MOST_GRADIENT = 20.0
# Share of the rate at which a rounded weight's master and scale step: see docs/training.md.
ROUNDED_SHARE = 0.05
OnEpoch = Callable[[EpochFigures], None]
_PEAK = "peak"  # of a group of parameters: its rate where the schedule is at its highest


@dataclass(frozen=True)
class Schedule:
    """SGD with Nesterov momentum: a linear warm-up to ``lr``, then a cosine to zero.

    Attributes:
        epochs: Passes over the training images; 0 trains nothing.
        lr: Peak learning rate.
        batch_size: Images per step.
        weight_decay: L2 penalty of kernels and coefficients; biases, normalization and scales have none.
        warmup: Share of all steps that the warm-up takes.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 1e-4
    warmup: float = 0.1

    def factor(self, step: int, steps: int) -> float:
        """The share of ``lr`` at a step, counted from 0."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> float:
        """Give every group of parameters its rate for a step; returns that of the fastest."""
        for group in optimizer.param_groups:
            group["lr"] = group[_PEAK] * self.factor(step, steps)
        return self.lr * self.factor(step, steps)


@dataclass(frozen=True)
class TrainingBatch:
    """What one step trains on: a batch or, with several processes, this one's share of it.

    Attributes:
        images: (N, 3, H, W).
        labels: (N,).
        answer: What the teacher says of the images, or None.
        imitation: Weight of the teacher's features.
        weight: What the mean over this share counts in the mean over all of them.
    """

    images: Tensor
    labels: Tensor
    answer: TeacherOutput | None = None
    imitation: float = FEATURE_WEIGHT
    weight: float = 1.0


def train(
    model: nn.Module,
    images: Split,
    schedule: Schedule,
    *,
    accelerator: Accelerator,
    seed: int,
    teacher: Teacher | None = None,
    first_epoch: int = 0,
    progress: Progress | None = None,
    title: str = "train",
    checkpoint: Checkpoint | None = None,
    interruption: Interruption | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingProgress:
    """Train a network in place on augmented images; see ``basis.preconditioning`` for its steps.

    Args:
        model: The network; its outputs are logits of shape (N, classes).
        images: Training images and labels.
        schedule: Epochs, learning rate, batch size.
        accelerator: Device and precision.
        seed: Decides the images' order, augmentation and dropout; batches are the same for any number of processes.
        teacher: The uncompressed network. Its softened outputs then weigh 0.6 and the labels 0.4
            (Hinton et al. 2015, arXiv 1503.02531, temperature 4), and at first the outputs of its stages are imitated
            too (``pipeline.training.features``). The covariance of its layers' inputs preconditions the gradients. None
            trains on the labels only.
        first_epoch: The number of the first epoch: training that goes on after other epochs sees new batches.
        progress: Where epochs are reported.
        title: Their name there.
        checkpoint: What is found there is gone on from, and training is kept there: see ``Checkpointer``.
        interruption: Asked between steps whether to end.
        on_epoch: Called after every epoch, those before a checkpoint included.

    Returns:
        Where training ended, with the epochs' figures; the network is in evaluation mode.

    Raises:
        CompressionError: The loss became NaN or infinite.
        BaseException: The interruption's reason.
    """
    device, processes, stop = accelerator.device, processes_of(accelerator), interruption or Interruption()
    optimizer = SGD(_groups(placed(model, device), schedule), schedule.lr, momentum=0.9, nesterov=True)
    random = RandomStream(seed, device)
    keeper = Checkpointer(checkpoint, model, optimizer, random, title, on_epoch or _ignore)
    position = keeper.resume(batches_of_epoch(len(images), schedule.batch_size))
    prepared, stepping = prepare(accelerator, model.train(), optimizer, lambda: _first_image(images, device))
    lessons = _lessons(images, schedule, position, device, seed, first_epoch, teacher, processes.share)
    steps, taps = schedule.epochs * position.per_epoch, FeatureHooks(teacher.points if teacher else ())
    shown = (progress or SilentProgress()).track(title, steps)
    steered = preconditioned_gradients(model, _moments(model, images, teacher, steps, seed, processes))
    with stop.step(), taps.on(model), steered, quiet_backward(accelerator), shown as advance:
        advance(position.step, "")
        for lesson in lessons:
            rate = schedule.set_rates(optimizer, position.step, steps)
            loss = training_step(prepared, lesson, taps, stepping, accelerator, random)
            position.count(loss, rate)
            advance(1, f"epoch {position.epoch_of_last_step}/{schedule.epochs}, loss {loss:.3f}")
            keeper.after_step(position, _asked_of_any(stop, processes))
    release(accelerator, model.eval(), prepared)
    return keeper.timed(position)


def _lessons(
    images: Split,
    schedule: Schedule,
    position: TrainingProgress,
    device: torch.device,
    seed: int,
    first_epoch: int,
    teacher: Teacher | None,
    share: Share,
) -> Iterator[TrainingBatch]:
    """This share of every batch from the position to the end."""
    size, steps = schedule.batch_size, schedule.epochs * position.per_epoch
    for epoch in range(position.epoch, schedule.epochs):
        epoch_seed, start = seed * 1_000_003 + first_epoch + epoch, position.batch
        batches = images.batches(size, device=device, seed=epoch_seed, augment=True, start=start, share=share)
        for batch, (x, labels) in enumerate(batches, start):
            done = (epoch * position.per_epoch + batch) / steps
            imitation = FEATURE_WEIGHT * max(0.0, 1 - done / IMITATED_SHARE)
            answer = None
            if teacher is not None:
                told = {"epoch_seed": epoch_seed, "batch_size": size, "batch": batch}
                answer = teacher.answer(x, **told, features=imitation > 0)
            yield TrainingBatch(x, labels, answer, imitation, share.weight(min(size, len(images) - batch * size)))


def _moments(
    model: nn.Module, images: Split, teacher: Teacher | None, steps: int, seed: int, processes: Processes
) -> dict[str, Tensor]:
    """What the layers of a taught network are given: the same numbers in every process, and after every resumption."""
    if teacher is None or steps < MOMENT_STEPS:
        return {}
    device = processes.device
    height, width = _first_image(images, device).shape[-2:]
    count = min(MOMENT_IMAGES, len(images), images_at_once((height, width)))
    portion = processes.portion(count)
    with processes.together():
        shown = images.sample(count, seed=seed, device=device, share=processes.share if portion else WHOLE)
    return teacher.inverse_input_covariance(model, shown, portion)


def _first_image(images: Split, device: torch.device) -> Tensor:
    """(1, 3, H, W)."""
    return next(images.part(0, 1).batches(1, device=device))[0]


def _asked_of_any(stop: Interruption, processes: Processes) -> Interruption:
    """What was asked of this process or another up to now: all of them end after the same step."""
    if processes.count == 1:
        return stop
    asked, reason = Interruption(), stop.reason
    if float(processes.sum(torch.tensor(float(reason is not None)))):
        asked.request(reason or Terminated())
    return asked


def _ignore(figures: EpochFigures) -> None:
    """Nobody wants the epoch's figures."""


def _groups(model: nn.Module, schedule: Schedule) -> list[dict[str, object]]:
    """Kernels and coefficients decay; vectors (biases, normalization, scales) do not. What is rounded steps slowly."""
    rounded = {p for module in model.modules() if _rounds(module) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            vector = max(parameter.shape, default=1) == parameter.numel()
            decay = 0.0 if vector else schedule.weight_decay
            rate = schedule.lr * (ROUNDED_SHARE if parameter in rounded else 1.0)
            groups.setdefault((decay, rate), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "lr": rate, _PEAK: rate} for (decay, rate), params in groups.items()
    ]


def _rounds(module: nn.Module) -> bool:
    """Whether a module holds a master weight and the fake quantizer that rounds it."""
    return isinstance(module, parametrize.ParametrizationList) and isinstance(module[-1], FakeQuantizer)


def training_step(
    model: nn.Module,
    lesson: TrainingBatch,
    taps: FeatureHooks,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    random: RandomStream,
) -> float:
    """One step of training.

    Args:
        model: The network, prepared by the accelerator.
        lesson: What it trains on.
        taps: On the network, at the teacher's points.
        optimizer: It makes the step.
        accelerator: Precision and processes.
        random: What dropout draws from.

    Returns:
        The loss of the whole batch.

    Raises:
        CompressionError: It is NaN or infinite.
    """
    with random.drawn_from():
        logits = model(lesson.images)
    loss = _loss(logits, taps.take(), lesson) * lesson.weight
    processes = processes_of(accelerator)
    whole = float(processes.sum(loss.detach())) / processes.count
    if not math.isfinite(whole):
        raise CompressionError("train: the loss became NaN or infinite; try a smaller --lr")
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), MOST_GRADIENT)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return whole


def _loss(logits: Tensor, features: Sequence[Tensor], lesson: TrainingBatch) -> Tensor:
    hard, answer = functional.cross_entropy(logits.float(), lesson.labels), lesson.answer
    if answer is None:
        return hard
    soft = functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=1),
        functional.log_softmax(answer.logits.float() / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    told = LABEL_SHARE * hard + (1 - LABEL_SHARE) * TEMPERATURE**2 * soft
    if not lesson.imitation:
        return told
    return told + lesson.imitation * feature_loss(features, answer.features)
