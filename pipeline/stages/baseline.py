"""The baseline: the uncompressed network, loaded or trained once on the data."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pipeline.data.dataset import Dataset
from pipeline.data.sources import is_imagenet
from pipeline.models.digest import network_digest
from pipeline.models.registry import build_model, check_forward
from pipeline.models.weights import default_weights_name, load_torchvision_weights, load_weights
from pipeline.runtime.device import Accelerator
from pipeline.runtime.progress import Progress
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.signals import Interruption
from pipeline.stages.train import Course, train_once
from pipeline.store.store import Step, Store
from pipeline.tracking import NullTracker, Tracker
from pipeline.training.loop import Schedule

BASELINE_SCHEDULE = Schedule(10, lr=0.05, batch_size=64, weight_decay=5e-4)


@dataclass(frozen=True)
class Start:
    """The uncompressed network before its training, if it needs any.

    Attributes:
        model: The network, with its weights where these are loaded.
        origin: Where its weights are from, in words for the report.
        course: How it is trained; None where its weights are loaded.
        training: That stage.
    """

    model: nn.Module
    origin: str
    course: Course | None = None
    training: Step | None = None


def start_baseline(
    model_name: str, weights: str, data: Dataset, *, accelerator: Accelerator, seed: int, store: Store
) -> Start:
    """Load the network's weights, or say how it is trained on the data.

    Args:
        model_name: See ``pipeline.models.registry.build_model``.
        weights: A checkpoint file, the name of torchvision weights, or ``auto``.
        data: Training images; the test images are not looked at.
        accelerator: Device and precision of training.
        seed: Initial weights and training follow from it.
        store: Where a trained network is kept.

    Raises:
        OptionsError: The model is unknown or cannot take the images.
        DataError: The weights are missing, damaged or do not fit.
    """
    if weights == "auto":
        known = default_weights_name(model_name) if is_imagenet(data) else None
        if known is None:
            return _to_train(model_name, Course(data, BASELINE_SCHEDULE, accelerator, seed), store)
        weights = known
    elif Path(weights).suffix or Path(weights).exists() or "/" in weights:
        model = _initial(model_name, data, seed)
        load_weights(model, Path(weights))
        return Start(model.eval(), f"checkpoint {Path(weights).name}")
    model = load_torchvision_weights(model_name, data.classes, weights)
    check_forward(model, data.classes, data.image_size)
    return Start(model.eval(), f"torchvision {weights}")


def train_baseline(
    start: Start,
    store: Store,
    *,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
    tracker: Tracker | None = None,
) -> nn.Module:
    """Train the network if it needs it, once; see ``train_once``.

    Returns:
        The network, in evaluation mode.
    """
    if start.course is not None and start.training is not None:
        train_once(
            start.model,
            start.course,
            store,
            start.training,
            progress=progress,
            interruption=interruption,
            on_epoch=partial((tracker or NullTracker()).epoch, start.training.name),
        )
    return start.model


def _initial(model_name: str, data: Dataset, seed: int) -> nn.Module:
    with RandomStream(seed, torch.device("cpu")).drawn_from():
        model = build_model(model_name, data.classes)
    check_forward(model, data.classes, data.image_size)
    return model


def _to_train(model_name: str, course: Course, store: Store) -> Start:
    model = _initial(model_name, course.data, course.seed)
    name = course.data.name
    training = course.step(store, network_digest(model_name, model), f"baseline: training {model_name} on {name}")
    origin = f"trained on {name} for {course.schedule.epochs} epochs, seed {course.seed}"
    return Start(model, origin, course, training)
