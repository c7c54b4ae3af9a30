"""A run: the stages in the order in which one would tell them, and its report."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.dataset import Dataset
from pipeline.data.sources import load_dataset
from pipeline.executors import executor
from pipeline.failure import FailureReporter
from pipeline.options.file import write_options_file
from pipeline.options.grid import variants
from pipeline.options.options import Options
from pipeline.runtime.device import Accelerator, make_accelerator, processes_of
from pipeline.runtime.launcher import launched
from pipeline.runtime.processes import Processes
from pipeline.runtime.progress import Progress, SilentProgress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.signals import Interruption
from pipeline.runtime.turns import TURNS, YieldingProgress
from pipeline.stages.baseline import start_baseline, train_baseline
from pipeline.stages.context import Bench, check_configs, make_bench, open_store
from pipeline.stages.report import VariantResult, _written_report
from pipeline.stages.variant import write_files
from pipeline.stages.verify import Measured, _check_reload
from pipeline.store.locks import locked
from pipeline.store.store import Store
from pipeline.tracking import NullTracker, Tracker, tracking
from reports import result_table
from reports.files import remove_parts

logger = logging.getLogger(__name__)

OPTIONS_FILE = "options.yaml"
LOCK = ".seriesquant.lock"


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: the report, where it was written, its table as text, and 0 or (a gate missed) 3."""

    report: dict[str, Any]
    report_path: Path
    text: str
    exit_code: int


def run(options: Options, progress: Progress | None = None, interruption: Interruption | None = None) -> RunResult:
    """Compress a network in every combination of the options, and report.

    Args:
        options: The validated options.
        progress: Where stages and epochs are shown; None shows nothing.
        interruption: Asked between steps of training whether to end; a later run goes on from there.

    Raises:
        CompressionError: Something the caller gave cannot be used; see its subclasses for which.
        OSError: The output folder cannot be written.
    """
    reporter, main = FailureReporter(options), launched().is_main
    with reporter.watching(), tracking(options) if main else nullcontext(NullTracker()) as tracker:
        shown = YieldingProgress(progress or SilentProgress())
        result = _run(options, shown, interruption or Interruption(), tracker, reporter)
        tracker.finish(result.report, options.out)
    return result


def _run(
    options: Options, progress: Progress, interruption: Interruption, tracker: Tracker, reporter: FailureReporter
) -> RunResult:
    started = time.monotonic()
    accelerator = make_accelerator(options.device)
    processes = processes_of(accelerator)
    with TURNS.computing(), deterministic_algorithms():
        with processes.together():
            data = load_dataset(
                options.data, limit_train=options.limit_train, limit_test=options.limit_test, workers=options.workers
            )
            check_configs(options, data)
        with (
            _only_one(options, processes),
            reporter.watching(holding=True),
            executor(options, interruption) as compute,
        ):
            processes.on_main(partial(write_options_file, options.out / OPTIONS_FILE, options.model_dump(mode="json")))
            bench, origin = _prepare(options, data, accelerator, progress, interruption, tracker)
            results: list[VariantResult] = []
            measured: list[Measured] = []
            for result in compute(options, bench, variants(options)):
                results.append(result)
                measured += processes.on_main(partial(write_files, result, options.out))
            _check_reload(results, measured, options, bench)
            report, path = processes.on_main(lambda: _written_report(options, bench, results, origin, started))
            _say_what_was_stored(bench.store)
    return RunResult(report, path, result_table(report), report["exit_code"])


@contextmanager
def _only_one(options: Options, processes: Processes) -> Iterator[None]:
    """Keep other runs out of the output folder, and clear away what a killed one left half written."""
    with ExitStack() as held:
        with processes.together():
            if processes.is_main:
                options.out.mkdir(parents=True, exist_ok=True)
                lock, what = options.out / LOCK, f"the output folder {options.out}"
                held.enter_context(locked(lock, what, options.lock_timeout))
                remove_parts(options.out)
        yield


def _prepare(
    options: Options,
    data: Dataset,
    accelerator: Accelerator,
    progress: Progress,
    interruption: Interruption,
    tracker: Tracker,
) -> tuple[Bench, str]:
    """The baseline, its Top-1, and where its weights are from."""
    store = open_store(options, accelerator)
    progress.stage(f"baseline: {options.model} on {data.name}")
    with processes_of(accelerator).together():
        start = start_baseline(
            options.model, options.weights, data, accelerator=accelerator, seed=options.seed, store=store
        )
    baseline = train_baseline(start, store, progress=progress, interruption=interruption, tracker=tracker)
    bench = make_bench(options, data, baseline, accelerator, store, progress, interruption, tracker)
    progress.result(f"baseline: Top-1 {bench.top1:.2f}")
    return bench, start.origin


def _say_what_was_stored(store: Store) -> None:
    cached, count = sum(stage.cached for stage in store.stages), len(store.stages)
    words = f"all {count} stages" if cached == count else f"{cached} of {count} stages"
    logger.info("%s were read from the store %s", words, store.folder)
