"""Measure a network on the held-out training images, for the choice between its weights."""

from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.dataset import Split
from pipeline.runtime.device import placed
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import EVALUATION_BATCH, Evaluation, evaluate_together, measure, measure_together
from pipeline.training.teacher import Teacher

BLEND: Final = 0.5
"""Share of the second image in a blend; docs/training.md has the measurements."""


class HeldOutJudge:
    """Computes a network's losses on the held-out training images: a ``pipeline.training.selection.Judge``.

    Without a teacher, the loss is the cross-entropy with the labels. With a teacher, it is the divergence
    KL(teacher, network) on blends of two images. A teacher whose weights were loaded has often been trained on the
    held-out images. It is then far better on them than on other images, and so is a network that was just fitted to it.
    Blends are new to both.

    Args:
        context: The run.
        teacher: The uncompressed network; None for the cross-entropy.
    """

    def __init__(self, context: RunContext, teacher: Teacher | None) -> None:
        self._context, self._teacher = context, teacher

    def __call__(self, model: nn.Module) -> Tensor:
        """Measure a network, which is moved to the run's device and set to evaluation mode.

        Returns:
            Losses in nats, float64, (images,), the same on every rank.
        """
        processes, held_out = self._context.processes, self._context.images.held_out
        processes.share_buffers(placed(model, self._context.device))
        if self._wanted is None:
            return evaluate_together(model, held_out, processes).losses
        found = self._log_probabilities(model)
        return functional.kl_div(found, self._wanted, reduction="none", log_target=True).sum(1)

    @cached_property
    def _wanted(self) -> Tensor | None:
        return None if self._teacher is None else self._log_probabilities(self._teacher.network)

    def _log_probabilities(self, model: nn.Module) -> Tensor:
        """Predict blends: float64, (images, classes)."""
        processes = self._context.processes

        def of_part(part: Split) -> Evaluation:
            batches = part.batches(EVALUATION_BATCH, device=processes.device)
            network = placed(model, processes.device).eval()
            with torch.no_grad():
                return measure(lambda x: network(torch.lerp(x, x.roll(1, 0), BLEND)), batches)

        logits = measure_together(of_part, self._context.images.held_out, processes).logits
        return logits.to(torch.float64).log_softmax(1)
