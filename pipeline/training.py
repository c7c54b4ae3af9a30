"""One training loop for the baseline, for fine-tuning and for quantization-aware training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from basis.errors import CompressionError
from basis.preconditioning import filter_space_gradients
from pipeline.acceleration import Accelerator, release
from pipeline.data.dataset import Split, batches_of_epoch
from pipeline.progress import Progress, SilentProgress
from pipeline.randomness import RandomStream
from pipeline.teacher import Teacher
from quant.fake_quantizer import FakeQuantizer

TEMPERATURE = 4.0
LABEL_SHARE = 0.1
# Share of the rate at which a rounded weight's master and scale step: see docs/training.md.
ROUNDED_SHARE = 0.05


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
) -> nn.Module:
    """Train a network in place on augmented images; coefficients step in the space of their filters.

    Args:
        model: The network; its outputs are logits of shape (N, classes).
        images: Training images and labels.
        schedule: Epochs, learning rate, batch size.
        accelerator: Device and precision.
        seed: Order of the images, augmentation and dropout follow from it alone.
        teacher: The uncompressed network; its softened outputs are then nine tenths of the loss
            (Hinton et al. 2015, arXiv 1503.02531, temperature 4). None trains on the labels only.
        first_epoch: The number of the first epoch: training that goes on after other epochs sees new batches.
        progress: Where epochs are reported.
        title: The bar's name.

    Returns:
        The network, in evaluation mode.

    Raises:
        CompressionError: The loss became NaN or infinite.
    """
    if schedule.epochs == 0:
        return model.eval()
    random = RandomStream(seed, accelerator.device)
    model.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = SGD(_groups(model, schedule), schedule.lr, momentum=0.9, nesterov=True)
    prepared, optimizer = accelerator.prepare(model.train(), optimizer)
    steps = schedule.epochs * batches_of_epoch(len(images), schedule.batch_size)
    decay = LambdaLR(optimizer, lambda step: schedule.factor(step, steps))
    with filter_space_gradients(model), (progress or SilentProgress()).track(title, steps) as advance:
        for epoch in range(schedule.epochs):
            size, epoch_seed = schedule.batch_size, seed * 1_000_003 + first_epoch + epoch
            batches = images.batches(size, device=accelerator.device, seed=epoch_seed, augment=True)
            for batch, (x, labels) in enumerate(batches):
                answer = None
                if teacher is not None:
                    answer = teacher.logits(x, epoch_seed=epoch_seed, batch_size=size, batch=batch)
                with random.drawn_from():
                    loss = training_step(prepared, x, labels, answer, optimizer, accelerator)
                decay.step()
                advance(1, f"epoch {epoch + 1}/{schedule.epochs}, loss {loss:.3f}")
    release(accelerator, model, prepared)
    return model.eval()


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
    return [{"params": params, "weight_decay": decay, "lr": rate} for (decay, rate), params in groups.items()]


def _rounds(module: nn.Module) -> bool:
    """Whether a module holds a master weight and the fake quantizer that rounds it."""
    return isinstance(module, parametrize.ParametrizationList) and isinstance(module[-1], FakeQuantizer)


def training_step(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    answer: Tensor | None,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> float:
    """One step of training.

    Args:
        model: The network, prepared by the accelerator.
        x: Images, (N, 3, H, W).
        labels: (N,).
        answer: The teacher's logits, (N, classes), or None.
        optimizer: It makes the step.
        accelerator: Precision and processes.

    Returns:
        The loss.

    Raises:
        CompressionError: It is NaN or infinite.
    """
    loss = _loss(model(x), labels, answer)
    if not torch.isfinite(loss):
        raise CompressionError("train: the loss became NaN or infinite; try a smaller --lr")
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _loss(logits: Tensor, labels: Tensor, answer: Tensor | None) -> Tensor:
    hard = functional.cross_entropy(logits.float(), labels)
    if answer is None:
        return hard
    soft = functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=1),
        functional.log_softmax(answer.float() / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return LABEL_SHARE * hard + (1 - LABEL_SHARE) * TEMPERATURE**2 * soft
