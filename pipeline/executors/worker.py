"""A worker: it reads the data and rebuilds the baseline once, then computes the variants that it is given."""

import logging
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from torch import Tensor

from pipeline.errors import OptionsError
from pipeline.models.registry import build_model
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.forwarding import ForwardedLines, ForwardedLog
from pipeline.runtime.loggers import LOGGERS
from pipeline.runtime.progress import LineProgress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import Baseline, make_baseline
from pipeline.stages.context import RunContext, make_context
from pipeline.stages.variant import VariantResult, run_variant
from pipeline.store.store import StageRecord
from pipeline.tracking import RecordingTracker
from pipeline.training.state import EpochFigures, TrainingLabel

_contexts: dict[str, tuple[RunContext, Baseline]] = {}


@dataclass(frozen=True)
class Shared:
    """The same for all variants of a run; sent once.

    Attributes:
        options: The run's options.
        baseline: The uncompressed network's state dict, on the CPU.
        origin: The source of these weights.
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
    origin: str
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
    stages: list[StageRecord]
    epochs: list[tuple[TrainingLabel, EpochFigures]]


def compute(shared: Shared, variant: Variant, say: Callable[[str], Any]) -> Finished:
    """Compute a variant in this process.

    Args:
        shared: What the driver sent.
        variant: The network to compute.
        say: Gets what the stages report, line by line.

    Raises:
        CompressionError: The data is not here, or the variant cannot be computed.
    """
    context, baseline = _context(shared, say)
    tracker = cast(RecordingTracker, context.tracker)
    stages, epochs = len(context.store.stages), len(tracker.epochs)
    with deterministic_algorithms():
        result = run_variant(context, baseline, variant)
    return Finished(result, context.store.stages[stages:], tracker.epochs[epochs:])


def _context(shared: Shared, say: Callable[[str], Any]) -> tuple[RunContext, Baseline]:
    """Return the run's context and baseline, made for the first of its variants."""
    if shared.run_id not in _contexts:
        _contexts.clear()
        _enter(shared)
        stream = cast(TextIO, LineStream(say))
        _log_to(stream)
        _contexts[shared.run_id] = _made(shared, stream)
    return _contexts[shared.run_id]


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
        handler = logging.StreamHandler(stream)
        handler.setFormatter(ForwardedLog())
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _made(shared: Shared, stream: TextIO) -> tuple[RunContext, Baseline]:
    options = shared.options.model_copy(update={"cache_dir": shared.store})
    accelerator = make_accelerator(options.device)
    if accelerator.device.type != shared.device:
        raise OptionsError(
            f"--executor: a worker computes on {accelerator.device.type}, but the driver on {shared.device}; allowed: "
            "the same kind of device for both"
        )
    context = make_context(
        options, accelerator, LineProgress(stream, lines=ForwardedLines()), Interruption(), RecordingTracker()
    )
    network = build_model(options.model, context.data.classes)
    network.load_state_dict(shared.baseline)
    return context, make_baseline(context, network, shared.origin, shared.top1)


def share(context: RunContext, baseline: Baseline, threads: int) -> Shared:
    """What workers need of a run.

    Args:
        context: The driver's run.
        baseline: The uncompressed network.
        threads: Threads that a worker computes with.
    """
    state = {name: tensor.detach().cpu() for name, tensor in baseline.model.state_dict().items()}
    folder = context.store.folder.absolute()
    return Shared(context.options, state, baseline.origin, baseline.top1, folder, context.device.type, threads)


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
