"""The baseline: the uncompressed network, loaded or trained once on the data."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.acceleration import Accelerator
from pipeline.checkpoint import default_weights_name, load_checkpoint, load_torchvision_weights
from pipeline.data.dataset import Dataset
from pipeline.data.sources import is_imagenet
from pipeline.models.registry import build_model, check_forward
from pipeline.progress import Progress
from pipeline.randomness import RandomStream
from pipeline.stored_training import Course, train_once
from pipeline.training import Schedule

BASELINE_EPOCHS = 10
BASELINE_SCHEDULE = Schedule(BASELINE_EPOCHS, lr=0.05, batch_size=64, weight_decay=5e-4)


@dataclass(frozen=True)
class Baseline:
    """The uncompressed network and where its weights are from, in words for the report."""

    model: nn.Module
    origin: str


def make_baseline(
    model_name: str,
    weights: str,
    data: Dataset,
    *,
    accelerator: Accelerator,
    seed: int,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Baseline:
    """Load the network's weights, or train it on the data and store it.

    Args:
        model_name: See ``pipeline.models.registry.build_model``.
        weights: A checkpoint file, the name of torchvision weights, or ``auto``.
        data: Training images; the test images are not looked at.
        accelerator: Device and precision of training.
        seed: Initial weights and training follow from it.
        fresh: Train again even where a stored network exists.
        progress: Where training is reported.

    Raises:
        OptionsError: The model is unknown or cannot take the images.
        DataError: The weights are missing, damaged or do not fit.
    """
    if weights == "auto":
        known = default_weights_name(model_name) if is_imagenet(data) else None
        if known is None:
            return _trained(model_name, data, accelerator=accelerator, seed=seed, fresh=fresh, progress=progress)
        weights = known
    elif Path(weights).suffix or Path(weights).exists() or "/" in weights:
        model = _initial(model_name, data, seed)
        load_checkpoint(model, Path(weights))
        return Baseline(model.eval(), f"checkpoint {Path(weights).name}")
    model = load_torchvision_weights(model_name, data.classes, weights)
    check_forward(model, data.classes, data.image_size)
    return Baseline(model.eval(), f"torchvision {weights}")


def _initial(model_name: str, data: Dataset, seed: int) -> nn.Module:
    with RandomStream(seed, torch.device("cpu")).drawn_from():
        model = build_model(model_name, data.classes)
    check_forward(model, data.classes, data.image_size)
    return model


def _trained(
    model_name: str, data: Dataset, *, accelerator: Accelerator, seed: int, fresh: bool, progress: Progress | None
) -> Baseline:
    model = _initial(model_name, data, seed)
    course = Course(data, BASELINE_SCHEDULE, accelerator, seed)
    title = f"baseline: training {model_name} on {data.name}"
    train_once(model, course, structure=model_name, fresh=fresh, progress=progress, title=title)
    return Baseline(model, f"trained on {data.name} for {BASELINE_EPOCHS} epochs, seed {seed}")
