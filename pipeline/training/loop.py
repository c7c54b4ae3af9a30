"""The training loop of the baseline, of fine-tuning and of quantization-aware training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import SGD, Adam, Optimizer

from basis.conv import SeriesConv2d
from basis.modes import evaluating, training, training_with_statistics
from basis.parametric.conv import ParametricConv2d
from basis.parametric.gradients import filter_space_gradients
from basis.preconditioning import preconditioned_gradients
from pipeline.data.dataset import TrainingImages, batches_of_epoch, images_at_once
from pipeline.models.preparation import drop_graphs
from pipeline.runtime.device import Accelerator, placed, prepare, processes_of, quiet_backward, release
from pipeline.runtime.processes import Processes
from pipeline.runtime.progress import Progress, SilentProgress
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.share import WHOLE, RankSlice
from pipeline.runtime.signals import Interruption, Terminated
from pipeline.training.features import FeatureHooks
from pipeline.training.schedule import PEAK, Schedule
from pipeline.training.selection import BestWeights
from pipeline.training.state import Checkpoint, Checkpointer, EpochFigures, TrainingProgress
from pipeline.training.step import Loss, TrainingBatch, training_step
from pipeline.training.teacher import Teacher
from quant.fake_quantizer import FakeQuantizer
from quant.other_weights import is_vector
from quant.stepped_training import RateControl

# Constants of distilled training, measured in docs/training.md.
FEATURE_WEIGHT: Final = 30.0
"""Initial weight of the feature loss. It decreases linearly to zero at ``FEATURE_PHASE``."""
FEATURE_PHASE: Final = 0.6
"""Share of all steps after which the feature loss has no weight."""
COVARIANCE_IMAGES: Final = 256
"""Number of training images from which the input covariance of each layer is computed."""
_WEIGHTED: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, SeriesConv2d)
OnEpoch = Callable[[EpochFigures], None]


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
    best: BestWeights | None = None,
    loss_of: Loss | None = None,
) -> TrainingProgress:
    """Train a network in place on augmented images.

    See ``basis.preconditioning`` and ``basis.parametric.gradients`` for the gradients.

    With a teacher, the loss is 0.6 times the divergence from its softened outputs plus 0.4 times the labels'
    cross-entropy (Hinton et al. 2015, arXiv 1503.02531, temperature 4). In the first 60 % of all steps the features of
    ``pipeline.training.features`` are matched too. The covariance of the teacher's layer inputs preconditions the
    gradients of longer trainings.

    With a rate, Adam is used in place of SGD, and normalizations keep their running statistics. The loss then contains
    the price of the bits.

    Args:
        model: The network; its outputs are logits of shape (N, classes).
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
        rate: Rounds a network to steps and keeps its bits; None for all other networks.
        best: Chooses the final weights, after a measurement of every epoch; it is new and holds this network's start.
            None leaves the weights of the last epoch.
        loss_of: The loss of a batch; None for ``pipeline.training.step.classification_loss``.

    Returns:
        The final progress, with the figures of all epochs and the choice; the network is in evaluation mode.

    Raises:
        NumericalError: The loss became NaN or infinite.
        BaseException: The reason of the interruption.
    """
    device, processes, stop = accelerator.device, processes_of(accelerator), interruption or Interruption()
    optimizer = _optimizer(parameter_groups(placed(model, device), schedule), schedule, rate)
    random = RandomStream(seed, device)
    checkpointer = Checkpointer(checkpoint, model, optimizer, random, title, on_epoch or _ignore, best)
    position = checkpointer.resume(batches_of_epoch(len(images), schedule.batch_size))
    start = training(model) if rate is None else training_with_statistics(model)
    prepared, stepping = prepare(accelerator, start, optimizer, lambda: _first_image(images, device))
    batches = _training_batches(images, schedule, position, device, seed, first_epoch, teacher, processes.share)
    steps, hooks = schedule.epochs * position.per_epoch, FeatureHooks(teacher.points if teacher else ())
    shown = (progress or SilentProgress()).track(title, steps)
    steered: AbstractContextManager[object] = nullcontext()  # Adam scales each gradient
    if rate is None:
        steered = preconditioned_gradients(model, _input_covariance(model, images, teacher, steps, seed, processes))
    projected = filter_space_gradients(model)
    with stop.deferred(), hooks.on(model), steered, projected, quiet_backward(accelerator), shown as advance:
        advance(position.step, "")
        for batch in batches:
            if rate is not None:
                rate.before_step(position.step, steps)
            lr = schedule.set_rates(optimizer, position.step, steps)
            price = None if rate is None else rate.loss()
            loss = training_step(prepared, batch, hooks, stepping, accelerator, random, loss_of, price)
            if rate is not None:
                rate.after_step(position.step, steps, loss)
            position.count(loss, lr)
            if best is not None and position.batch == 0:
                position.judge(best.after_epoch(position.epoch, model))
            advance(1, f"epoch {position.epoch_of_last_step}/{schedule.epochs}, loss {loss:.3f}")
            checkpointer.after_step(position, _any_stop_request(stop, processes))
    if best is not None:
        position.selection = best.choose(model)
    release(accelerator, evaluating(model))
    drop_graphs(model)
    return checkpointer.timed(position)


def _optimizer(groups: list[dict[str, object]], schedule: Schedule, rate: RateControl | None) -> Optimizer:
    if rate is not None:
        return Adam(groups, schedule.lr)
    return SGD(groups, schedule.lr, momentum=0.9, nesterov=True)


def parameter_groups(model: nn.Module, schedule: Schedule) -> list[dict[str, object]]:
    """Group parameters by weight decay and learning rate.

    Weights and coefficients of layers decay, and so does every other parameter with more than one axis of values.
    Vectors do not decay: biases, normalization, the scales of fake quantizers and of layers. Parameters of parametric
    families do not decay either, because zero is no neutral order or width. Rounded weights and their scales have a
    learning rate of their own.

    Args:
        model: The network; only parameters that are trained get into a group.
        schedule: Weight decay and learning rate of the weights.

    Returns:
        Parameter groups for a torch optimizer.
    """
    weights = {p for module in model.modules() if isinstance(module, _WEIGHTED) for p in _weights(module)}
    shapes = {p for module in model.modules() if isinstance(module, ParametricConv2d) for p in _weights(module)}
    rounded = {p: each for module in model.modules() if (each := _quantizer(module)) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            vector = is_vector(parameter) and parameter not in weights
            quantizer = rounded.get(parameter)
            lasting = vector or parameter in shapes or (quantizer is not None and not quantizer.decays)
            decay = 0.0 if lasting else schedule.weight_decay
            rate = schedule.lr * (1.0 if quantizer is None else quantizer.learning_rate_share)
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
    """Iterate over this rank's slices of all batches from ``position`` to the end."""
    size, steps = schedule.batch_size, schedule.epochs * position.per_epoch
    for epoch in range(position.epoch, schedule.epochs):
        # Far apart for neighbouring seeds, so that no two of their epochs are the same.
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
    """(1, C, H, W)."""
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


def _quantizer(module: nn.Module) -> FakeQuantizer | None:
    """Return the fake quantizer of a parametrization; None for another module."""
    quantizer = module[-1] if isinstance(module, parametrize.ParametrizationList) else None
    return quantizer if isinstance(quantizer, FakeQuantizer) else None
