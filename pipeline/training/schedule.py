"""The learning-rate schedule of a training."""

import math
from dataclasses import dataclass, replace
from typing import Final

import torch

from pipeline.data.dataset import batches_of_epoch

PEAK = "peak"  # key of a parameter group: its peak learning rate

FULL_RATE_STEPS: Final = 300
"""Steps from which a training has its full learning rate; docs/training.md has the measurements."""


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule of SGD with Nesterov momentum: linear warm-up to ``lr``, then cosine decay to zero.

    Attributes:
        epochs: Passes over the training images; 0 trains nothing.
        lr: Peak learning rate.
        batch_size: Images per step.
        weight_decay: L2 penalty of kernels and coefficients. Biases, normalization and scales have none.
        warmup: Share of all steps in the warm-up.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 1e-4
    warmup: float = 0.1

    def factor(self, step: int, steps: int) -> float:
        """Return the share of ``lr`` at a step, counted from 0."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> float:
        """Set the learning rate of every parameter group for a step; return the highest."""
        for group in optimizer.param_groups:
            group["lr"] = group[PEAK] * self.factor(step, steps)
        return self.lr * self.factor(step, steps)

    def steps(self, images: int) -> int:
        """Return the number of steps with so many training images."""
        return self.epochs * batches_of_epoch(images, self.batch_size)


def suited_schedule(images: int, epochs: int, batch_size: int, *, lr: float | None, default: float) -> Schedule:
    """Return a schedule whose peak learning rate suits its number of steps.

    Args:
        images: Number of training images.
        epochs: Passes over them.
        batch_size: Images per step.
        lr: The chosen peak; None for the default.
        default: Peak for ``FULL_RATE_STEPS`` or more. Below, it falls in proportion to the steps.
    """
    schedule = Schedule(epochs, default, batch_size)
    suited = default * min(1.0, schedule.steps(images) / FULL_RATE_STEPS)
    return replace(schedule, lr=lr or suited)
