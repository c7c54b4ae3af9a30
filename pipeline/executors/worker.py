"""Compute variants in a worker process, which reads the data and rebuilds the baseline once a run."""

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

from basis.copying import copy_network
from basis.memory import keep_freed_memory
from pipeline.errors import OptionsError
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.forwarding import ForwardedLines, ForwardedLog
from pipeline.runtime.packages import PACKAGES
from pipeline.runtime.products import product_precisions, set_product_precisions
from pipeline.runtime.progress import LineProgress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import Baseline, make_baseline
from pipeline.stages.context import RunContext, make_context
from pipeline.stages.mirroring import Mirroring
from pipeline.stages.variant import VariantResult, run_variant
from pipeline.store.entry import load_state, state_of
from pipeline.store.store import StageRecord
from pipeline.tracking import RecordingTracker
from pipeline.training.state import EpochFigures, TrainingLabel


@dataclass(frozen=True)
class WorkerPayload:
    """Everything that a worker needs for every variant of a run; sent once a run.

    Attributes:
        options: The run's options.
        baseline: The uncompressed network's state dict, on the CPU.
        origin: The source of these weights.
        top1: The baseline's Top-1, in percent.
        mirroring: The baseline's figures on mirror images, or None.
        store: The store's folder; a worker on another machine uses the folder of that name there.
        device: The type of the driver's device, for example ``cpu``.
        threads: Number of threads of a worker.
        products: The driver's precision of products, see ``pipeline.runtime.products``.
        folder: The driver's working folder; relative paths in the options start from it.
        search_path: The driver's ``sys.path``, on which a user's network is found.
        run_id: Identifies the run within a worker process.
    """

    options: Options
    baseline: dict[str, Tensor]
    origin: str
    top1: float
    mirroring: Mirroring | None
    store: Path
    device: str
    threads: int
    products: dict[str, str | bool] = field(default_factory=product_precisions)
    folder: str = field(default_factory=os.getcwd)
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class WorkerResult:
    """The outcome of one variant.

    Attributes:
        result: The variant's result.
        stages: The stages that computed it.
        epochs: The epochs of its trainings, each with the label of its training.
    """

    result: VariantResult
    stages: list[StageRecord]
    epochs: list[tuple[TrainingLabel, EpochFigures]]


def make_payload(context: RunContext, baseline: Baseline, threads: int) -> WorkerPayload:
    """Collect in the driver what its workers need.

    Args:
        context: The driver's run.
        baseline: The uncompressed network.
        threads: Number of threads of a worker.
    """
    state = state_of(baseline.model)
    known = baseline.origin, baseline.top1, baseline.mirroring
    folder = context.store.folder.absolute()
    return WorkerPayload(context.options, state, *known, folder, context.device.type, threads)


def compute(payload: WorkerPayload, variant: Variant, log: Callable[[str], Any]) -> WorkerResult:
    """Compute a variant in this process.

    The data and the baseline are read for the first variant of a run and kept for the others.

    Args:
        payload: The run.
        variant: The variant to compute.
        log: Called with each line of the stages' log.

    Raises:
        DataError: The data is not on this machine.
        OptionsError: The type of this machine's device is not the driver's.
        CompressionError: The variant cannot be computed.
    """
    context, baseline = _run_of(payload, log)
    tracker = cast(RecordingTracker, context.tracker)
    stages, epochs = len(context.store.stages), len(tracker.epochs)
    with deterministic_algorithms():
        result = run_variant(context, baseline, variant)
    return WorkerResult(result, context.store.stages[stages:], tracker.epochs[epochs:])


_contexts: dict[str, tuple[RunContext, Baseline]] = {}
"""``run_id`` -> the run's context and baseline; one run at a time."""


def _run_of(payload: WorkerPayload, log: Callable[[str], Any]) -> tuple[RunContext, Baseline]:
    if payload.run_id not in _contexts:
        _contexts.clear()
        _adopt_environment(payload)
        stream = cast(TextIO, LineWriter(log))
        _log_to(stream)
        _contexts[payload.run_id] = _make_run(payload, stream)
    return _contexts[payload.run_id]


def _adopt_environment(payload: WorkerPayload) -> None:
    """Set the driver's search path, threads, precision, memory and, if it is on this machine, working folder."""
    sys.path += [folder for folder in payload.search_path if folder not in sys.path]
    if Path(payload.folder).is_dir():
        os.chdir(payload.folder)
    keep_freed_memory()
    torch.set_num_threads(payload.threads)
    set_product_precisions(payload.products)


def _log_to(stream: TextIO) -> None:
    """Send the package's log records to the stream only, as the progress lines are."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        handler = logging.StreamHandler(stream)
        handler.setFormatter(ForwardedLog())
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _make_run(payload: WorkerPayload, stream: TextIO) -> tuple[RunContext, Baseline]:
    options = payload.options.model_copy(update={"cache_dir": payload.store})
    accelerator = make_accelerator(options.device, options.precision)
    if accelerator.device.type != payload.device:
        raise OptionsError(
            f"--executor: a worker computes on {accelerator.device.type}, but the driver on {payload.device}; allowed: "
            "the same kind of device for both"
        )
    context = make_context(
        options, accelerator, LineProgress(stream, lines=ForwardedLines()), Interruption(), RecordingTracker()
    )
    network = copy_network(context.network)
    load_state(network, payload.baseline)
    return context, make_baseline(context, network, payload.origin, payload.top1, payload.mirroring)


class LineWriter(TextIOBase):
    """Text stream that calls a function with every complete line.

    Args:
        log: Called with a line, without its line break.
    """

    def __init__(self, log: Callable[[str], Any]) -> None:
        self._log, self._incomplete = log, ""

    def write(self, text: str) -> int:
        """Log the lines that the text completes; keep an incomplete last line for the next call."""
        *lines, self._incomplete = (self._incomplete + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)
