"""A worker: it reads the data and rebuilds the baseline once, then computes the variants that it is given."""

import logging
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from torch import Tensor

from pipeline.data.sources import load_dataset
from pipeline.errors import OptionsError
from pipeline.models.registry import build_model
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.loggers import LOGGERS
from pipeline.runtime.progress import LineProgress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.signals import Interruption
from pipeline.stages.context import Bench, make_bench, open_store
from pipeline.stages.report import VariantResult
from pipeline.stages.variant import run_variant
from pipeline.store.store import Stage
from pipeline.tracking import RecordingTracker
from pipeline.training.state import EpochFigures

_benches: dict[str, Bench] = {}


@dataclass(frozen=True)
class Shared:
    """The same for all variants of a run; sent once.

    Attributes:
        options: The run's options.
        baseline: The uncompressed network's state dict, on the CPU.
        top1: The baseline's Top-1, in percent.
        store: The store's folder; a worker on another machine uses the folder of that name there.
        device: The kind of device that the driver computes on.
        threads: Threads that a worker computes with.
        folder: The driver's working folder, which the options' paths start from.
        search_path: The driver's search path for modules, where a user's network is found.
        run_id: Tells this run from the others of a worker.
    """

    options: Options
    baseline: dict[str, Tensor]
    top1: float
    store: Path
    device: str
    threads: int
    folder: str = field(default_factory=os.getcwd)
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Finished:
    """A variant's result, the stages that made it, and the epochs of its trainings, each with the training's name."""

    result: VariantResult
    stages: list[Stage]
    epochs: list[tuple[str, EpochFigures]]


def compute(shared: Shared, variant: Variant, say: Callable[[str], Any]) -> Finished:
    """Compute a variant in this process.

    Args:
        shared: What the driver sent.
        variant: The network to compute.
        say: Gets what the stages report, line by line.

    Raises:
        CompressionError: The data is not here, or the variant cannot be computed.
    """
    bench = _bench(shared, say)
    tracker = cast(RecordingTracker, bench.tracker)
    stages, epochs = len(bench.store.stages), len(tracker.epochs)
    with deterministic_algorithms():
        result = run_variant(shared.options, variant, bench)
    return Finished(result, bench.store.stages[stages:], tracker.epochs[epochs:])


def _bench(shared: Shared, say: Callable[[str], Any]) -> Bench:
    """The run's bench, made when the first of its variants comes."""
    if shared.run_id not in _benches:
        _benches.clear()
        _enter(shared)
        stream = cast(TextIO, LineStream(say))
        _log_to(stream)
        _benches[shared.run_id] = _made(shared, stream)
    return _benches[shared.run_id]


def _enter(shared: Shared) -> None:
    """Work where the driver works, as far as this machine has the folder."""
    sys.path += [folder for folder in shared.search_path if folder not in sys.path]
    if Path(shared.folder).is_dir():
        os.chdir(shared.folder)
    torch.set_num_threads(shared.threads)


def _log_to(stream: TextIO) -> None:
    """Send what our loggers say the way of the progress lines, and no other."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [logging.StreamHandler(stream)]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _made(shared: Shared, stream: TextIO) -> Bench:
    options = shared.options.model_copy(update={"cache_dir": shared.store})
    accelerator = make_accelerator(options.device)
    if accelerator.device.type != shared.device:
        raise OptionsError(
            f"--executor: a worker computes on {accelerator.device.type}, but the driver on {shared.device}; allowed: "
            "the same kind of device for both"
        )
    data = load_dataset(
        options.data, limit_train=options.limit_train, limit_test=options.limit_test, workers=options.workers
    )
    network = build_model(options.model, data.classes)
    network.load_state_dict(shared.baseline)
    store = open_store(options, accelerator)
    progress, tracker = LineProgress(stream), RecordingTracker()
    bench = make_bench(options, data, network, accelerator, store, progress, Interruption(), tracker)
    return replace(bench, known_top1=shared.top1)


def share(options: Options, bench: Bench, threads: int) -> Shared:
    """What workers need of a run.

    Args:
        options: The run's options.
        bench: What the driver's stages share.
        threads: Threads that a worker computes with.
    """
    state = {name: tensor.detach().cpu() for name, tensor in bench.baseline.state_dict().items()}
    return Shared(options, state, bench.top1, bench.store.folder.absolute(), bench.accelerator.device.type, threads)


class LineStream(TextIOBase):
    """Calls a function with every whole line that is written.

    Args:
        say: Gets a line, without its end.
    """

    def __init__(self, say: Callable[[str], Any]) -> None:
        """Nothing is written yet."""
        self._say, self._begun = say, ""

    def write(self, text: str) -> int:
        """Hand on the lines that the text ends, and keep the beginning of the next."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)
