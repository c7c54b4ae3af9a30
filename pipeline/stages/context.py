"""The context of a run: everything that its stages share."""

import hashlib
import logging
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from basis.shard import CalibrationShard
from pipeline.artifact import Identity
from pipeline.data.dataset import Dataset, Split, images_at_once
from pipeline.data.sources import load_dataset
from pipeline.models.layer_orders import plan_layers
from pipeline.options.options import Options
from pipeline.options.orders import parse_config
from pipeline.runtime.device import Accelerator, processes_of
from pipeline.runtime.environment import library_versions
from pipeline.runtime.processes import Processes
from pipeline.runtime.products import product_precisions
from pipeline.runtime.progress import Progress
from pipeline.runtime.share import WHOLE
from pipeline.runtime.signals import Interruption
from pipeline.stages.activation_memory import images_in_memory
from pipeline.stages.network import check_training, checked_network, matched_to_network
from pipeline.store.housekeeping import store_folder
from pipeline.store.store import Store
from pipeline.tracking import NullTracker, Tracker
from pipeline.training.selection import HoldOut, hold_out

logger = logging.getLogger(__name__)

_ROOT: Final = Path(__file__).resolve().parents[2]
# Packages whose code computes results. The rest of the program only arranges, stores and shows them.
_COMPUTING: Final = (
    "basis",
    "quant",
    "pipeline/artifact",
    "pipeline/data",
    "pipeline/models",
    "pipeline/onnx",
    "pipeline/options",
    "pipeline/runtime",
    "pipeline/stages",
    "pipeline/store",
    "pipeline/training",
)


@dataclass(frozen=True)
class RunContext:
    """The options, data and services of a run.

    Attributes:
        options: The validated options.
        data: Training images for every choice, test images for reporting.
        calibration_count: Number of training images for the fit and for rounding.
        accelerator: Device and precision.
        store: Results of stages.
        progress: Shows stages and epochs.
        interruption: Pending stop request, checked between training steps.
        tracker: Receives the figures of every epoch.
        network: The network's checked architecture with random weights, on the CPU. It is only copied. Its marks and
            hooks are described in ``pipeline.models.checks.network``.
    """

    options: Options
    data: Dataset
    calibration_count: int
    accelerator: Accelerator
    store: Store
    progress: Progress
    interruption: Interruption
    tracker: Tracker
    network: nn.Module

    @property
    def device(self) -> torch.device:
        """The device of all stages."""
        device: torch.device = self.accelerator.device
        return device

    @cached_property
    def images(self) -> HoldOut[Split, Split]:
        """Training images that are trained on, and those held out."""
        return hold_out(self.data.train)

    @property
    def processes(self) -> Processes:
        """The ranks of the run."""
        return processes_of(self.accelerator)


def make_context(
    options: Options,
    accelerator: Accelerator,
    progress: Progress,
    interruption: Interruption,
    tracker: Tracker | None = None,
) -> RunContext:
    """Load the data, open the store, check the network, and check that every config fits it.

    Args:
        options: The validated options.
        accelerator: See ``RunContext``, like the arguments after it.
        progress: See ``RunContext``.
        interruption: See ``RunContext``.
        tracker: See ``RunContext``; None tracks nothing.

    Raises:
        OptionsError: The store's folder is a file, or a config does not fit the network. Or the network does not accept
            the images, or cannot be trained on batches of one image or in the precision of the options.
        DataError: The data are missing or damaged, or the network's output is not one logit per class.
    """
    processes, folder = processes_of(accelerator), store_folder(options.cache_dir)
    with processes.together():
        data = load_dataset(
            options.data,
            limit_train=options.limit_train,
            limit_test=options.limit_test,
            workers=options.workers,
            image_size=options.image_size,
        )
        data = matched_to_network(options, data)
        network = checked_network(options, data)
        for text in options.config:
            plan_layers(network, parse_config(text), options.model)
        check_training(options, data, accelerator, network)
    store = Store(
        folder,
        cache_environment(accelerator),
        fresh=options.fresh,
        lock_timeout=options.lock_timeout,
        processes=processes,
    )
    fitting = images_in_memory(network, data.input_shape)
    count = min(_wanted_calibration(options, data), images_at_once(data.image_size), fitting)
    services = accelerator, store, progress, interruption, tracker or NullTracker()
    return RunContext(options, data, count, *services, network)


def log_data_notes(context: RunContext) -> None:
    """Log the choices that loading made, and if a run has fewer calibration images than wanted.

    Call it in the driver only, not in its workers.
    """
    for note in context.data.notes:
        logger.info("data: %s", note)
    wanted, (height, width) = _wanted_calibration(context.options, context.data), context.data.image_size
    if context.calibration_count < wanted:
        words = (
            "calibration: %d images instead of %d, because the activations of all %dx%d images are in memory at once"
        )
        logger.info(words, context.calibration_count, wanted, height, width)


def log_precision(context: RunContext) -> None:
    """Log if the network cannot be trained in bf16. Call it in the driver only, not in its workers."""
    if context.accelerator.fallback:
        logger.info("precision: float32 instead of bf16, because of %s", context.accelerator.fallback)


def cache_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return everything outside the options that can change a result. It is part of every cache key.

    Returns:
        A digest of our source code, library versions, device, precision, thread count and process count.
    """
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "source": source_digest(),
        "versions": library_versions(),
        "device": [device.type, name],
        "precision": accelerator.precision,
        "products": product_precisions(),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }


@cache
def source_digest(root: Path = _ROOT) -> str:
    """Hash the source of every package that computes results, so that changed code never reads stored results.

    Args:
        root: The folder of the packages.

    Returns:
        SHA-256 in hex of the names and contents of all their ``.py`` files.
    """
    digest = hashlib.sha256()
    for package in _COMPUTING:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def calibration_shard(context: RunContext) -> CalibrationShard | None:
    """Return the calibration shard of this rank; None if the rank holds all images."""
    return context.processes.calibration_shard(context.calibration_count)


def calibration_images(context: RunContext) -> Tensor:
    """Draw this rank's training images for the fit and for rounding.

    Returns:
        float32, (N, C, H, W), normalized, on the device; the same images at every call.
    """
    share = context.processes.share if calibration_shard(context) else WHOLE
    count, seed = context.calibration_count, context.options.seed
    with context.processes.together():
        return context.data.train.sample(count, seed=seed, device=context.device, share=share)


def calibration_inputs(context: RunContext) -> dict[str, Any]:
    """Return the part of a cache key that identifies the calibration images."""
    return {"data": context.data.train.digest, "count": context.calibration_count, "seed": context.options.seed}


def network_identity(context: RunContext) -> Identity:
    """Return the description of the network in artifacts: its builder, classes and normalization."""
    data = context.data
    mean, std = data.normalization.mean, data.normalization.std
    output = context.options.output
    return Identity(context.options.model, data.classes, data.class_names, mean, std, data.image_size, output)


def _wanted_calibration(options: Options, data: Dataset) -> int:
    return min(options.calibration_size, len(data.train))
