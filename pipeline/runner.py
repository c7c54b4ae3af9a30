"""A run: the stages in the order in which one would tell them, and its report."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.acceleration import Accelerator, make_accelerator, processes_of
from pipeline.artifact import write_artifact
from pipeline.baseline import start_baseline, train_baseline
from pipeline.bench import Bench, check_configs, make_bench, open_store
from pipeline.data.dataset import Dataset
from pipeline.data.sources import is_imagenet, load_dataset
from pipeline.determinism import deterministic_algorithms
from pipeline.environment import hardware
from pipeline.executors import executor
from pipeline.facts import SCHEMA_VERSION, run_facts
from pipeline.failure import FailureReporter
from pipeline.grid import variants
from pipeline.interruption import Interruption
from pipeline.launcher import launched
from pipeline.network_record import record_network
from pipeline.options import Options
from pipeline.options_file import write_options_file
from pipeline.processes import Processes
from pipeline.progress import Progress, SilentProgress
from pipeline.reload import Measured, reload_differences
from pipeline.results import DIGITS
from pipeline.store.entry import Entry
from pipeline.store.locks import locked
from pipeline.store.store import Step, Store
from pipeline.tracking import NullTracker, Tracker, tracking
from pipeline.turns import TURNS, GivingWay
from pipeline.variant_run import VariantResult, write_files
from quant.counting import count_params
from reports import result_table, write_report
from reports.files import remove_parts
from reports.gate import judge
from reports.model import Report, Row

logger = logging.getLogger(__name__)

BASELINE_PATH = "artifacts/baseline.safetensors"
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
        shown = GivingWay(progress or SilentProgress())
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
    return RunResult(report.model_dump(), path, result_table(report), report.exit_code)


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
    progress.stage(f"baseline: Top-1 {bench.top1:.2f}")
    return bench, start.origin


def _check_reload(results: list[VariantResult], measured: list[Measured], options: Options, bench: Bench) -> None:
    """Load every artifact in a fresh process, and give each row how far its logits are from those measured."""

    def make() -> Entry:
        bench.progress.stage("artifacts: reload in a fresh process")
        device = bench.accelerator.device
        found = bench.processes.on_main(lambda: reload_differences(measured, bench.data, options.model, device))
        return Entry(facts={"differences": found})

    digests = [each.sha256 for each in measured]
    key = bench.store.key("reload", artifacts=digests, network=bench.digest, test=bench.data.test.digest)
    found = bench.store.once(Step("artifacts: reload", key), make).facts["differences"]
    if found is not None:
        differences = dict(zip(digests, found, strict=True))
        for each in (row for result in results for row in result.rows):
            each["reloaded_logits_max_abs_diff"] = differences[each["sha256"]]


def _written_report(
    options: Options, bench: Bench, results: list[VariantResult], origin: str, started: float
) -> tuple[Report, Path]:
    """Write the baseline's artifact and the report, and give the report and where it is."""
    write_artifact(record_network(bench.baseline, {}), bench.identity, options.out / BASELINE_PATH)
    content = _report(options, bench, results, origin)
    content["run"]["duration_s"] = round(time.monotonic() - started, 1)
    report = Report.model_validate(content)
    return report, write_report(report, options.out)


def _report(options: Options, bench: Bench, results: list[VariantResult], origin: str) -> dict[str, Any]:
    rows, top1 = [row for result in results for row in result.rows], round(bench.top1, DIGITS)
    gate = judge(
        [Row.model_validate(row) for row in rows], top1, max_drop=options.max_drop, max_size_mb=options.max_size_mb
    )
    for failure in gate.failures:
        logger.warning("gate missed: %s", failure)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "done",
        "error": None,
        "exit_code": gate.exit_code,
        "run": _run_facts(options, bench, origin),
        "baseline": {
            "top1": top1,
            "params": count_params(bench.baseline),
            "size_mb": (options.out / BASELINE_PATH).stat().st_size / 1e6,
            "artifact": BASELINE_PATH,
        },
        "rows": rows,
        "layers": [layer for result in results for layer in result.layers],
        "gate": gate,
        "kernels": next((result.kernels for result in results if result.kernels), None),
    }


def _run_facts(options: Options, bench: Bench, origin: str) -> dict[str, Any]:
    data = bench.data
    return run_facts(options.command(), options) | {
        "weights": origin,
        "dataset": {
            "name": "imagenet" if is_imagenet(data) else data.name,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": data.classes,
        },
        "device": _device_name(bench.accelerator.device),
        "precision": bench.accelerator.mixed_precision,
        "processes": bench.processes.count,
        "hardware": hardware(str(bench.accelerator.device)),
        "calibration_images": bench.calibration,
        "stages": [asdict(stage) for stage in bench.store.stages],
    }


def _device_name(device: torch.device) -> str:
    return device.type if device.type == "cpu" else str(device)


def _say_what_was_stored(store: Store) -> None:
    cached, count = sum(stage.cached for stage in store.stages), len(store.stages)
    words = f"all {count} stages" if cached == count else f"{cached} of {count} stages"
    logger.info("%s were read from the store %s", words, store.folder)
