"""What the stages of a run share."""

import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from basis.shard import CalibrationShard
from pipeline.artifact import Identity
from pipeline.data.dataset import Dataset, images_at_once
from pipeline.models.digest import network_digest
from pipeline.models.layer_orders import plan_layers
from pipeline.models.registry import build_model, check_forward
from pipeline.onnx.file import OnnxExporter
from pipeline.options.options import Options
from pipeline.options.orders import parse_config
from pipeline.runtime.device import Accelerator, placed, processes_of
from pipeline.runtime.environment import library_versions
from pipeline.runtime.processes import Processes
from pipeline.runtime.progress import Progress
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.share import WHOLE
from pipeline.runtime.signals import Interruption
from pipeline.stages.evaluate import Evaluation, evaluate_together
from pipeline.stages.train import TrainingJob, TrainingSummary, curve_of, train_once
from pipeline.store.entry import Entry
from pipeline.store.housekeeping import store_folder
from pipeline.store.store import StageKey, Store
from pipeline.tracking import NullTracker, Tracker
from pipeline.training.loop import Schedule
from pipeline.training.teacher import Teacher


@dataclass(frozen=True)
class RunContext:
    """The uncompressed network, the data, where to compute and where results are kept.

    Attributes:
        baseline: The uncompressed network; no stage changes it.
        digest: Of the baseline: see ``pipeline.models.digest``.
        data: Training images for every choice, test images for the figures.
        calibration: How many training images fit and rounding look at.
        accelerator: Device and precision.
        seed: Orders of images and augmentation follow from it.
        progress: Where stages are reported.
        store: Where the results of stages are kept.
        interruption: Asked between steps of training whether to end.
        teacher: The uncompressed network in training, or None where only the labels teach.
        identity: What artifacts say of the network.
        tracker: Is told of every epoch.
        onnx: Makes the rows' ONNX files, which share one graph.
        known_top1: The baseline's Top-1, where another process has measured it.
    """

    baseline: nn.Module
    digest: str
    data: Dataset
    calibration: int
    accelerator: Accelerator
    seed: int
    progress: Progress
    store: Store
    interruption: Interruption
    teacher: Teacher | None
    identity: Identity
    tracker: Tracker
    onnx: OnnxExporter = field(default_factory=OnnxExporter)
    known_top1: float | None = None

    def copy_of_baseline(self) -> nn.Module:
        """A network of the same architecture and weights that a stage may change."""
        return copy.deepcopy(self.baseline)

    def at_home(self, model: nn.Module) -> nn.Module:
        """A network where stages compute, in evaluation mode, whatever the stage before it was read from."""
        return placed(model, self.accelerator.device).eval()

    @cached_property
    def processes(self) -> Processes:
        """Those that share the run's work."""
        return processes_of(self.accelerator)

    @property
    def portion(self) -> CalibrationShard | None:
        """Which of the calibration images this process has; None: all."""
        return self.processes.portion(self.calibration)

    def calibration_images(self) -> Tensor:
        """This process' training images without labels, (N, 3, H, W), on the device: the same at every call."""
        share = self.processes.share if self.portion else WHOLE
        with self.processes.together():
            return self.data.train.sample(self.calibration, seed=self.seed, device=self.accelerator.device, share=share)

    def calibration_inputs(self) -> dict[str, Any]:
        """What the calibration images follow from, for keys."""
        return {"data": self.data.train.digest, "count": self.calibration, "seed": self.seed}

    @property
    def baseline_step(self) -> StageKey:
        """The measurement of the baseline."""
        return self.top1_step("baseline", self.digest)

    @cached_property
    def top1(self) -> float:
        """The baseline's Top-1 on the test images, in percent."""
        return self.top1_once(self.baseline, self.baseline_step) if self.known_top1 is None else self.known_top1

    def course(self, schedule: Schedule, first_epoch: int) -> TrainingJob:
        """A training of the run."""
        return TrainingJob(self.data, schedule, self.accelerator, self.seed, self.teacher, first_epoch)

    def train_once(self, model: nn.Module, course: TrainingJob, step: StageKey) -> TrainingSummary:
        """Train a network in place; see ``pipeline.stages.train.train_once``."""
        return train_once(
            model,
            course,
            self.store,
            step,
            progress=self.progress,
            interruption=self.interruption,
            on_epoch=partial(self.tracker.epoch, step.name),
        )

    def retell(self, training: StageKey) -> None:
        """Tell the tracker of a training that nobody asks for again, because what it led to is stored.

        Args:
            training: That stage; of one that the store has lost nothing is told.
        """
        entry = None if isinstance(self.tracker, NullTracker) else self.store.find(training.key)
        for figures in curve_of(entry) if entry else []:
            self.tracker.epoch(training.name, figures)

    def top1_step(self, name: str, network: str) -> StageKey:
        """The measurement of a network on the test images.

        Args:
            name: What the network is called.
            network: What decides it: the key of the stage that made it, or its digest.
        """
        return StageKey(f"{name}: Top-1", self.store.key("top1", network=network, test=self.data.test.digest))

    def evaluation_of(self, model: nn.Module) -> Evaluation:
        """What a network says of the test images."""
        return evaluate_together(model, self.data.test, self.processes)

    def top1_once(self, model: nn.Module, step: StageKey) -> float:
        """Top-1 of a network on the test images, in percent, measured or read from the store."""

        def make() -> Entry:
            return Entry(metadata={"top1": self.evaluation_of(model).top1})

        top1: float = self.store.once(step, make).metadata["top1"]
        return top1


def make_context(
    options: Options,
    data: Dataset,
    baseline: nn.Module,
    accelerator: Accelerator,
    store: Store,
    progress: Progress,
    interruption: Interruption,
    tracker: Tracker | None = None,
) -> RunContext:
    """Put together what a run's stages share; the arguments are those of ``RunContext``."""
    return RunContext(
        placed(baseline, accelerator.device).eval(),
        network_digest(options.model, baseline),
        data,
        _calibration_size(options, data),
        accelerator,
        options.seed,
        progress,
        store,
        interruption,
        Teacher(baseline, accelerator) if options.distill else None,
        dataset_identity(options.model, data),
        tracker or NullTracker(),
    )


def open_store(options: Options, accelerator: Accelerator) -> Store:
    """A run's view of the store."""
    folder = store_folder(options.cache_dir)
    return Store(
        folder,
        cache_environment(accelerator),
        fresh=options.fresh,
        lock_timeout=options.lock_timeout,
        processes=processes_of(accelerator),
    )


def check_configs(options: Options, data: Dataset) -> None:
    """Refuse what does not fit the model before anything is loaded or trained.

    Raises:
        OptionsError: A config does not fit the network, or the network not the images.
        DataError: The network gives something else than one logit for each class.
    """
    with RandomStream(0, torch.device("cpu")).drawn_from():
        model = build_model(options.model, data.classes)
    for text in options.config:
        plan_layers(model, parse_config(text), options.model)
    check_forward(model, data.classes, data.image_size)


def _calibration_size(options: Options, data: Dataset) -> int:
    """How many training images fit and rounding look at: all of them are in memory at once, as one batch."""
    return min(options.calibration_size, len(data.train), images_at_once(data.image_size))


def cache_environment(accelerator: Accelerator) -> dict[str, Any]:
    """What the figures of the same options depend on: two results under the same conditions are the same numbers."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "versions": library_versions(),
        "device": [device.type, name],
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }


def dataset_identity(model_name: str, data: Dataset) -> Identity:
    """The identity of a network on a data set."""
    mean, std = data.normalization.mean, data.normalization.std
    return Identity(model_name, data.classes, data.class_names, mean, std, data.image_size)
