"""Read the Top-1 that the source of a network's weights states for them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from pipeline.models import torchvision_models

_KEYS: Final = (
    *("best_acc1", "best_prec1", "best_top1", "best_acc", "best_accuracy"),
    *("val_acc1", "val_top1", "val_acc", "test_acc", "acc1", "top1", "acc"),
)
"""Entries of checkpoints that hold a Top-1, in the order in which they are looked for."""


@dataclass(frozen=True)
class Claim:
    """A Top-1 that was measured elsewhere.

    Attributes:
        top1: In percent.
        source: The source, for messages.
    """

    top1: float
    source: str


def torchvision_claim(model_name: str, weights_name: str) -> Claim | None:
    """Return the Top-1 that torchvision publishes for weights on ImageNet's validation images, if it does."""
    top1 = torchvision_models.published_top1(model_name, weights_name)
    return None if top1 is None else Claim(top1, f"torchvision's {weights_name}")


def checkpoint_claim(content: Any) -> Claim | None:
    """Return the Top-1 that a checkpoint holds beside its weights, for example as ``best_acc1``; None if there is none.

    Args:
        content: From ``pipeline.models.checkpoint.files.read_checkpoint``.
    """
    if not isinstance(content, Mapping):
        return None
    claims = (Claim(top1, f"the checkpoint's {key}") for key in _KEYS if (top1 := _percent(content.get(key))))
    return next(claims, None)


def _percent(value: Any) -> float | None:
    """Return a number of 0 to 100 as it is, and one of at most 1 times 100; None for anything else."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return None if not 0 < value <= 100 else 100.0 * value if value <= 1 else float(value)
