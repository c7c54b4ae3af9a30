"""A worker: it reads the data and rebuilds the baseline once, then computes the variants that it is given."""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import torch

from pipeline.data.sources import load_dataset
from pipeline.errors import OptionsError
from pipeline.executors.lines import LineStream
from pipeline.executors.shared import Finished, Shared
from pipeline.models.registry import build_model
from pipeline.options.grid import Variant
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import LineProgress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.signals import Interruption
from pipeline.stages.context import Bench, make_bench, open_store
from pipeline.stages.variant import run_variant
from pipeline.tracking import RecordingTracker

LOGGERS = ("basis", "pipeline", "quant")
_benches: dict[str, Bench] = {}


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
