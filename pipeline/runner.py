"""A run: its stages in order, and its report."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.errors import OptionsError
from pipeline.executors import executor
from pipeline.failure import FOLDER_LOCK, FailureReporter
from pipeline.options.file import write_options_file
from pipeline.options.grid import Target, variants
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator, processes_of
from pipeline.runtime.launcher import launched
from pipeline.runtime.locks import locked
from pipeline.runtime.progress import Progress, checked_progress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.signals import Interruption
from pipeline.runtime.threads import excess_hint, load_hint, thread_count
from pipeline.runtime.turns import TURNS, YieldingProgress
from pipeline.stages.baseline import check_weights, prepare_baseline
from pipeline.stages.context import RunContext, log_data_notes, log_precision, make_context
from pipeline.stages.kernels import kernel_figure
from pipeline.stages.layers import layer_rows
from pipeline.stages.report import BASELINE_PATH, artifact_path, write_files, write_run_report
from pipeline.stages.targets.sizes import check_targets
from pipeline.stages.verify import verify_artifacts
from pipeline.store.store import Store
from pipeline.tracking import NullTracker, Tracker, tracking
from reports import result_table
from reports.files import check_writable, remove_parts
from reports.model import Kernels, Layer, Report, Row

logger = logging.getLogger(__name__)

OPTIONS_FILE: Final = "options.yaml"
_FOLDERS: Final = ("artifacts", "plots")
"""The folders that a run makes in its output folder."""


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        report: Content of report.json.
        report_path: Path of report.md.
        text: The quantization table as text.
        exit_code: 0, or 3 if the gate failed.
    """

    report: dict[str, Any]
    report_path: Path
    text: str
    exit_code: int


def run(options: Options, progress: Progress | None = None, interruption: Interruption | None = None) -> RunResult:
    """Compress a network in every combination of the options, and report.

    Args:
        options: The validated options.
        progress: Shows stages and epochs; None shows nothing.
        interruption: Pending stop request, checked between training steps; a later run resumes from there.

    Raises:
        CompressionError: An input cannot be used, or a computation failed: see ``pipeline.errors`` for the subclasses.
        OSError: The output folder cannot be written.
    """
    if not isinstance(options, Options):
        raise OptionsError(
            f"run: got an object of type {type(options).__name__}; allowed: Options, as in "
            "run(Options(config='6,3,3,2,2'))"
        )
    shown = YieldingProgress(checked_progress(progress))
    reporter = FailureReporter(options)
    tracker_of_run = tracking(options) if launched().is_main else nullcontext(NullTracker())
    with reporter.watching(), tracker_of_run as tracker, thread_count(options.threads):
        with TURNS.computing(), deterministic_algorithms():
            report, path = _run_stages(options, shown, interruption or Interruption(), tracker, reporter)
        content = report.model_dump()
        tracker.finish(content, options.out)
    return RunResult(content, path, result_table(report), report.exit_code)


def _run_stages(
    options: Options, progress: Progress, interruption: Interruption, tracker: Tracker, reporter: FailureReporter
) -> tuple[Report, Path]:
    started = time.monotonic()
    opened = executor(options, interruption)
    accelerator = make_accelerator(options.device, options.precision)
    processes = processes_of(accelerator)
    with processes.together():
        if processes.is_main:
            _check_output_folder(options)
        check_weights(options)
    context = make_context(options, accelerator, progress, interruption, tracker)
    log_data_notes(context)
    log_precision(context)
    if excess := excess_hint(torch.get_num_threads()):
        logger.warning("%s", excess)
    elif options.threads is None and (hint := load_hint()):
        logger.info("%s", hint)
    check_targets(context)
    on_main = context.processes.on_main
    with _output_folder(context), reporter.watching(holding=True), opened as compute:
        on_main(partial(write_options_file, options.out / OPTIONS_FILE, options.model_dump(mode="json")))
        baseline = prepare_baseline(context)
        rows: list[Row] = []
        layers: list[Layer] = []
        kernels: Kernels | None = None
        logits: dict[str, Tensor] = {}
        for result in compute(context, baseline, variants(options)):  # approximate, train, quantize, export
            rows += on_main(partial(write_files, context, baseline, result))
            layers += layer_rows(result)
            kernels = kernels or kernel_figure(baseline, result, options.basis)
            logits |= {each.sha256: each.logits for each in result.quantized.values()}
        rows = verify_artifacts(context, baseline, rows, logits)
        written = on_main(lambda: write_run_report(context, baseline, rows, layers, kernels, started))
        _log_cached_stages(context.store)
    return written


@contextmanager
def _output_folder(context: RunContext) -> Iterator[None]:
    """Lock the output folder on rank 0 and remove files that a killed run left incomplete."""
    options, processes = context.options, context.processes
    with ExitStack() as held:
        with processes.together():
            if processes.is_main:
                lock, what = options.out / FOLDER_LOCK, f"the output folder {options.out}"
                held.enter_context(locked(lock, what, options.lock_timeout))
                for folder in (options.out, *(options.out / name for name in _FOLDERS)):
                    remove_parts(folder)
        yield


def _check_output_folder(options: Options) -> None:
    """Make the output folder, and check before any work that a run can write all its files.

    Raises:
        OSError: A folder cannot be made or written, or the folder holds an obstacle, see ``_refuse_obstacles``.
    """
    folder = options.out
    for each in (folder, *filter(Path.is_dir, (folder / name for name in _FOLDERS))):
        check_writable(each, f"the output folder {folder}")
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)  # a link may lead to a folder not yet made
    _refuse_obstacles(options)


def _refuse_obstacles(options: Options) -> None:
    """Check that nothing in the output folder prevents a run from writing its files.

    Raises:
        OSError: A folder has the name of a file, or a file has the name of a folder. Or the lock file cannot be
            written, for example because another user made it.
    """
    folder = options.out
    artifacts = [BASELINE_PATH]
    for variant in variants(options):
        widths: list[int | Target] = [*variant.bits, *variant.targets]
        artifacts += [artifact_path(variant, basis, width) for basis in variant.bases for width in widths]
    lock = folder / FOLDER_LOCK
    if lock.exists() and not os.access(lock, os.R_OK | os.W_OK):
        raise OSError(f"the output folder has a lock file that this user cannot write, {lock}; allowed: another --out")
    names = (FOLDER_LOCK, OPTIONS_FILE, "report.json", "report.md", "report.html", *artifacts)
    files = [folder / name for name in names]
    files += [(folder / name).with_suffix(".onnx") for name in artifacts]
    for path in (path for path in files if path.is_dir()):
        raise OSError(f"the output folder has a folder where a run writes the file {path}; allowed: another --out")
    for path in (folder / name for name in _FOLDERS):
        if path.exists() and not path.is_dir():
            raise OSError(f"the output folder has a file where a run makes the folder {path}; allowed: another --out")


def _log_cached_stages(store: Store) -> None:
    cached, count = sum(stage.cached for stage in store.stages), len(store.stages)
    words = f"all {count} stages" if cached == count else f"{cached} of {count} stages"
    logger.info("%s were read from the store %s", words, store.folder)
