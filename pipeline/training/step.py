"""One training step: the loss against labels and teacher, its gradient, and the update."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from basis.errors import NumericalError
from pipeline.errors import DataError
from pipeline.runtime.device import Accelerator, processes_of
from pipeline.runtime.randomness import RandomStream
from pipeline.training.features import FeatureHooks, feature_loss
from pipeline.training.teacher import TeacherOutput

TEMPERATURE: Final = 4.0
LABEL_SHARE: Final = 0.4
"""Weight of the labels' cross-entropy; the teacher's softened outputs have the rest."""
MAX_GRADIENT_NORM: Final = 20.0
"""Norm of all gradients above which they are scaled down; networks that train well stay below it."""


@dataclass(frozen=True)
class TrainingBatch:
    """The input of one step: a batch, or this rank's slice of it.

    Attributes:
        images: float32, (N, C, H, W).
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


Loss: TypeAlias = Callable[[Tensor, Mapping[str, Tensor], TrainingBatch], Tensor]
"""Maps (outputs, features, batch) to a scalar."""


def training_step(
    model: nn.Module,
    batch: TrainingBatch,
    hooks: FeatureHooks,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    random: RandomStream,
    loss_of: Loss | None = None,
    price: Tensor | None = None,
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
        price: A further part of the loss, which does not depend on the batch.

    Returns:
        The loss of the whole batch.

    Raises:
        DataError: The network masks the class of an image.
        NumericalError: The loss is NaN or infinite.
    """
    with random.drawn_from():
        outputs = model(batch.images)
    loss = (loss_of or classification_loss)(outputs, hooks.take(), batch)
    loss = (loss if price is None else loss + price) * batch.weight
    processes = processes_of(accelerator)
    whole = float(processes.sum(loss.detach())) / processes.count
    if not math.isfinite(whole):
        if loss_of is None:
            refuse_masked(outputs, batch.labels)
        raise NumericalError("train: the loss became NaN or infinite; try a smaller --lr")
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return whole


def refuse_masked(logits: Tensor, labels: Tensor) -> None:
    """Refuse labels of classes whose logits are -inf for all images: their cross-entropy is infinite.

    Args:
        logits: Outputs of the network, (N, classes).
        labels: int64, (M,), of these images or others.

    Raises:
        DataError: A label is of such a class.
    """
    found = labels[(logits == -torch.inf).all(0)[labels]]
    if len(found):
        raise DataError(
            f"train: the network gives -inf for the class {int(found[0])}, which is the label of a training image; "
            "allowed: a network without a mask of this class, or images of other classes"
        )


def classification_loss(logits: Tensor, features: Mapping[str, Tensor], batch: TrainingBatch) -> Tensor:
    """Return the loss for logits against the labels and, if there is one, the teacher.

    Args:
        logits: Outputs of the network, (N, classes). Where the teacher has -inf, as for a masked class, the outputs of
            both are not compared.
        features: Its features; see ``pipeline.training.features``.
        batch: The batch; without a target, only the labels count.
    """
    hard, target = functional.cross_entropy(logits.float(), batch.labels), batch.target
    if target is None:
        return hard
    masked = target.logits == -torch.inf  # of probability 0, so that their share in the divergence is 0
    soft = functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=1).masked_fill(masked, 0),
        functional.log_softmax(target.logits.float() / TEMPERATURE, dim=1).masked_fill(masked, 0),
        reduction="batchmean",
        log_target=True,
    )
    loss = LABEL_SHARE * hard + (1 - LABEL_SHARE) * TEMPERATURE**2 * soft
    if not batch.feature_weight:
        return loss
    return loss + batch.feature_weight * feature_loss(features, target.features)
