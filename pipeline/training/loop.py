"""The training loop of the baseline, of fine-tuning and of quantization-aware training."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.optim import SGD

from basis.conv import SeriesConv2d
from basis.errors import NumericalError
from basis.preconditioning import preconditioned_gradients
from pipeline.data.dataset import TrainingImages, batches_of_epoch, images_at_once
from pipeline.runtime.device import Accelerator, placed, prepare, processes_of, quiet_backward, release
from pipeline.runtime.processes import Processes
from pipeline.runtime.progress import Progress, SilentProgress
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.share import WHOLE, RankSlice
from pipeline.runtime.signals import Interruption, Terminated
from pipeline.training.features import FeatureHooks, feature_loss
from pipeline.training.schedule import PEAK, Schedule
from pipeline.training.state import Checkpoint, Checkpointer, EpochFigures, TrainingProgress
from pipeline.training.teacher import Teacher, TeacherOutput
from quant.fake_quantizer import FakeQuantizer
from quant.stepped_training import RateControl

# Constants of distilled training, measured in docs/training.md.
TEMPERATURE: Final = 4.0
LABEL_SHARE: Final = 0.4
"""Weight of the labels' cross-entropy; the teacher's softened outputs have the rest."""
FEATURE_WEIGHT: Final = 30.0
"""Initial weight of the feature loss. It decreases linearly to zero at ``FEATURE_PHASE``."""
FEATURE_PHASE: Final = 0.6
"""Share of all steps after which the feature loss has no weight."""
COVARIANCE_IMAGES: Final = 256
"""Number of training images from which the input covariance of each layer is computed."""
MAX_GRADIENT_NORM: Final = 20.0
"""Norm of all gradients above which they are scaled down; networks that train well stay below it."""
_WEIGHTED: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, SeriesConv2d)


OnEpoch = Callable[[EpochFigures], None]


@dataclass(frozen=True)
class TrainingBatch:
    """The input of one step: a batch, or this rank's slice of it.

    Attributes:
        images: float32, (N, 3, H, W).
        labels: int64, (N,).
        target: Output of the teacher, or None.
        feature_weight: Weight of the feature loss.
        weight: Weight of this slice's mean loss in the mean loss of the whole batch.
    """

    images: Tensor
    labels: Tensor
    target: TeacherOutput | None = None
    feature_weight: float = 0.0
    weight: float = 1.0


Loss: TypeAlias = Callable[[Tensor, Sequence[Tensor], TrainingBatch], Tensor]
"""Maps (outputs, features, batch) to a scalar."""


def train(
    model: nn.Module,
    images: TrainingImages,
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
    rate: RateControl | None = None,
    loss_of: Loss | None = None,
) -> TrainingProgress:
    """Train a network in place on augmented images; see ``basis.preconditioning`` for the gradients.

    With a teacher, the loss is 0.6 times the divergence from its softened outputs plus 0.4 times the labels'
    cross-entropy (Hinton et al. 2015, arXiv 1503.02531, temperature 4). In the first 60 % of all steps the features of
    ``pipeline.training.features`` are matched too. The covariance of the teacher's layer inputs preconditions the
    gradients of longer trainings.

    Args:
        model: The network; with ``classification_loss``, its outputs are logits of shape (N, classes).
        images: Training images and labels.
        schedule: Epochs, learning rate, batch size.
        accelerator: Device and precision.
        seed: Seed of image order, augmentation and dropout. Batches are the same for any number of processes.
        teacher: The uncompressed network; None trains on labels only.
        first_epoch: Number of the first epoch. Training that continues after other epochs gets new batches.
        progress: Shows epochs.
        title: Name of the training in messages.
        checkpoint: Storage of checkpoints; training resumes from the one that it holds. See ``Checkpointer``.
        interruption: Pending stop request, checked between steps.
        on_epoch: Called after every epoch, and on resuming for every epoch before the checkpoint.
        rate: Keeps a network that is rounded to steps at its bits; None for all other networks.
        loss_of: The loss of a batch; None for ``classification_loss``.

    Returns:
        The final progress, with the figures of all epochs; the network is in evaluation mode.

    Raises:
        NumericalError: The loss became NaN or infinite.
        BaseException: The reason of the interruption.
    """
    device, processes, stop = accelerator.device, processes_of(accelerator), interruption or Interruption()
    optimizer = SGD(parameter_groups(placed(model, device), schedule), schedule.lr, momentum=0.9, nesterov=True)
    random = RandomStream(seed, device)
    checkpointer = Checkpointer(checkpoint, model, optimizer, random, title, on_epoch or _ignore)
    position = checkpointer.resume(batches_of_epoch(len(images), schedule.batch_size))
    prepared, stepping = prepare(accelerator, model.train(), optimizer, lambda: _first_image(images, device))
    batches = _training_batches(images, schedule, position, device, seed, first_epoch, teacher, processes.share)
    steps, hooks = schedule.epochs * position.per_epoch, FeatureHooks(teacher.points if teacher else ())
    shown = (progress or SilentProgress()).track(title, steps)
    steered = preconditioned_gradients(model, _input_covariance(model, images, teacher, steps, seed, processes))
    with stop.deferred(), hooks.on(model), steered, quiet_backward(accelerator), shown as advance:
        advance(position.step, "")
        for batch in batches:
            if rate is not None:
                rate.before_step(position.step, steps)
            lr = schedule.set_rates(optimizer, position.step, steps)
            loss = training_step(prepared, batch, hooks, stepping, accelerator, random, loss_of)
            position.count(loss, lr)
            advance(1, f"epoch {position.epoch_of_last_step}/{schedule.epochs}, loss {loss:.3f}")
            checkpointer.after_step(position, _any_stop_request(stop, processes))
    release(accelerator, model.eval(), prepared)
    return checkpointer.timed(position)


def parameter_groups(model: nn.Module, schedule: Schedule) -> list[dict[str, object]]:
    """Group parameters by weight decay and learning rate.

    Weights and coefficients of layers decay, and so does every other parameter with more than one axis of values.
    Vectors do not decay: biases, normalization, the scales of fake quantizers and of layers. Rounded weights and their
    scales have a lower learning rate.

    Args:
        model: The network; only parameters that are trained get into a group.
        schedule: Weight decay and learning rate of the weights.

    Returns:
        Parameter groups for a torch optimizer.
    """
    weights = {p for module in model.modules() if isinstance(module, _WEIGHTED) for p in _weights(module)}
    shares = {p: share for module in model.modules() if (share := _rounded_share(module)) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            vector = max(parameter.shape, default=1) == parameter.numel() and parameter not in weights
            decay = 0.0 if vector else schedule.weight_decay
            rate = schedule.lr * shares.get(parameter, 1.0)
            groups.setdefault((decay, rate), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "lr": rate, PEAK: rate} for (decay, rate), params in groups.items()
    ]


def feature_weight(done: float) -> float:
    """Return the weight of the feature loss after a share of all steps, between 0 and 1."""
    return FEATURE_WEIGHT * max(0.0, 1 - done / FEATURE_PHASE)


def _training_batches(
    images: TrainingImages,
    schedule: Schedule,
    position: TrainingProgress,
    device: torch.device,
    seed: int,
    first_epoch: int,
    teacher: Teacher | None,
    share: RankSlice,
) -> Iterator[TrainingBatch]:
    """Iterate over this rank's slices of all batches from `position` to the end."""
    size, steps = schedule.batch_size, schedule.epochs * position.per_epoch
    for epoch in range(position.epoch, schedule.epochs):
        epoch_seed, start = seed * 1_000_003 + first_epoch + epoch, position.batch
        batches = images.batches(size, device=device, seed=epoch_seed, augment=True, start=start, share=share)
        for number, (x, labels) in enumerate(batches, start):
            imitation = feature_weight((epoch * position.per_epoch + number) / steps)
            target = None
            if teacher is not None:
                target = teacher.output(
                    x,
                    data=images.digest,
                    epoch_seed=epoch_seed,
                    batch_size=size,
                    batch=number,
                    features=imitation > 0,
                )
            weight = share.weight(min(size, len(images) - number * size))
            yield TrainingBatch(x, labels, target, imitation, weight)


def _input_covariance(
    model: nn.Module, images: TrainingImages, teacher: Teacher | None, steps: int, seed: int, processes: Processes
) -> dict[str, Tensor]:
    """Invert the input covariance of each layer: the same numbers on every rank and after every resumption."""
    if teacher is None or steps < teacher.covariance_steps:
        return {}
    device = processes.device
    height, width = _first_image(images, device).shape[-2:]
    count = min(COVARIANCE_IMAGES, len(images), images_at_once((height, width)))
    shard = processes.calibration_shard(count)
    with processes.together():
        shown = images.sample(count, seed=seed, device=device, share=processes.share if shard else WHOLE)
    return teacher.inverse_input_covariance(model, shown, shard)


def _first_image(images: TrainingImages, device: torch.device) -> Tensor:
    """(1, 3, H, W)."""
    return next(images.part(0, 1).batches(1, device=device))[0]


def _any_stop_request(stop: Interruption, processes: Processes) -> Interruption:
    """Return the stop request of any rank, so that all ranks end after the same step."""
    if processes.count == 1:
        return stop
    request, reason = Interruption(), stop.reason
    if float(processes.sum(torch.tensor(float(reason is not None)))):
        request.request(reason or Terminated())
    return request


def _ignore(figures: EpochFigures) -> None:
    """Drop an epoch's figures."""


def _weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """Iterate over a layer's weight or coefficients, whether or not a fake quantizer parametrizes them."""
    for name, parameter in module.named_parameters():
        if name.removeprefix("parametrizations.").removesuffix(".original") in ("weight", "coefficients"):
            yield parameter


def _rounded_share(module: nn.Module) -> float | None:
    """Return the share of the learning rate for a float weight and its fake quantizer; None for another module."""
    quantizer = module[-1] if isinstance(module, parametrize.ParametrizationList) else None
    return quantizer.learning_rate_share if isinstance(quantizer, FakeQuantizer) else None


def training_step(
    model: nn.Module,
    batch: TrainingBatch,
    hooks: FeatureHooks,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    random: RandomStream,
    loss_of: Loss | None = None,
) -> float:
    """Run one training step.

    Args:
        model: The network, prepared by the accelerator.
        batch: The input of the step.
        hooks: Feature hooks on the network, at the teacher's points.
        optimizer: The optimizer of all parameters.
        accelerator: Precision and processes.
        random: Random stream of dropout.
        loss_of: The loss of a batch; None for ``classification_loss``.

    Returns:
        The loss of the whole batch.

    Raises:
        NumericalError: The loss is NaN or infinite.
    """
    with random.drawn_from():
        outputs = model(batch.images)
    loss = (loss_of or classification_loss)(outputs, hooks.take(), batch) * batch.weight
    processes = processes_of(accelerator)
    whole = float(processes.sum(loss.detach())) / processes.count
    if not math.isfinite(whole):
        raise NumericalError("train: the loss became NaN or infinite; try a smaller --lr")
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return whole


def classification_loss(logits: Tensor, features: Sequence[Tensor], batch: TrainingBatch) -> Tensor:
    """Return the loss of ``train`` for logits.

    Args:
        logits: Outputs of the network, (N, classes).
        features: Its features; see ``pipeline.training.features``.
        batch: The batch; without a target, only the labels count.
    """
    hard, target = functional.cross_entropy(logits.float(), batch.labels), batch.target
    if target is None:
        return hard
    soft = functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=1),
        functional.log_softmax(target.logits.float() / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    loss = LABEL_SHARE * hard + (1 - LABEL_SHARE) * TEMPERATURE**2 * soft
    if not batch.feature_weight:
        return loss
    return loss + batch.feature_weight * feature_loss(features, target.features)
