"""A run: the stages in the order in which one would tell them, and its report."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.acceleration import make_accelerator
from pipeline.artifact import write_artifact
from pipeline.baseline import start_baseline, train_baseline
from pipeline.bench import Bench, check_configs, make_bench, open_store
from pipeline.data.dataset import Dataset
from pipeline.data.sources import is_imagenet, load_dataset
from pipeline.environment import library_versions
from pipeline.executors import executor
from pipeline.grid import variants
from pipeline.interruption import Interruption
from pipeline.network_record import record_network
from pipeline.options import Options
from pipeline.progress import Progress, SilentProgress
from pipeline.reload import Measured, reload_differences
from pipeline.results import SCHEMA_VERSION, gate
from pipeline.store.entry import Entry
from pipeline.store.locks import locked
from pipeline.store.store import Step, Store
from pipeline.tracking import Tracker, tracking
from pipeline.variant_run import VariantResult, write_files
from quant.counting import count_params
from reports import result_table, write_report
from reports.files import remove_parts

logger = logging.getLogger(__name__)

BASELINE_PATH = "artifacts/baseline.safetensors"
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
    with tracking(options) as tracker:
        result = _run(options, progress or SilentProgress(), interruption or Interruption(), tracker)
        tracker.finish(result.report, options.out)
    return result


def _run(options: Options, progress: Progress, interruption: Interruption, tracker: Tracker) -> RunResult:
    started = time.monotonic()
    with _deterministic():
        data = load_dataset(
            options.data, limit_train=options.limit_train, limit_test=options.limit_test, workers=options.workers
        )
        check_configs(options, data)
        with _only_one(options), executor(options, interruption) as compute:
            bench, origin = _prepare(options, data, progress, interruption, tracker)
            results, measured = [], []
            for result in compute(options, bench, variants(options)):
                results.append(result)
                measured += write_files(result, options.out)
            write_artifact(record_network(bench.baseline, {}), bench.identity, options.out / BASELINE_PATH)
            _check_reload(results, measured, options, bench)
            report = _report(options, bench, results, origin)
            report["run"]["duration_s"] = round(time.monotonic() - started, 1)
            path = write_report(report, options.out)
            _say_what_was_stored(bench.store)
    return RunResult(report, path, result_table(report), 3 if report["gate"]["passed"] is False else 0)


@contextmanager
def _only_one(options: Options) -> Iterator[None]:
    """Keep other runs out of the output folder, and clear away what a killed one left half written."""
    options.out.mkdir(parents=True, exist_ok=True)
    with locked(options.out / LOCK, f"the output folder {options.out}", options.lock_timeout):
        remove_parts(options.out)
        yield


def _prepare(
    options: Options, data: Dataset, progress: Progress, interruption: Interruption, tracker: Tracker
) -> tuple[Bench, str]:
    """The baseline, its Top-1, and where its weights are from."""
    accelerator = make_accelerator(options.device)
    store = open_store(options, accelerator)
    progress.stage(f"baseline: {options.model} on {data.name}")
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
        found = reload_differences(measured, bench.data, options.model, bench.accelerator.device)
        return Entry(facts={"differences": found})

    digests = [each.sha256 for each in measured]
    key = bench.store.key("reload", artifacts=digests, network=bench.digest, test=bench.data.test.digest)
    found = bench.store.once(Step("artifacts: reload", key), make).facts["differences"]
    if found is not None:
        differences = dict(zip(digests, found, strict=True))
        for each in (row for result in results for row in result.rows):
            each["reloaded_logits_max_abs_diff"] = differences[each["sha256"]]


def _report(options: Options, bench: Bench, results: list[VariantResult], origin: str) -> dict[str, Any]:
    rows = [row for result in results for row in result.rows]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": _run_facts(options, bench, origin),
        "baseline": {
            "top1": round(bench.top1, 4),
            "params": count_params(bench.baseline),
            "size_mb": (options.out / BASELINE_PATH).stat().st_size / 1e6,
            "artifact": BASELINE_PATH,
        },
        "rows": rows,
        "layers": [layer for result in results for layer in result.layers],
        "gate": gate(rows, bench.top1, options.max_drop),
        "kernels": next((result.kernels for result in results if result.kernels), None),
    }


def _run_facts(options: Options, bench: Bench, origin: str) -> dict[str, Any]:
    data = bench.data
    return {
        "command": options.command(),
        "model": options.model,
        "weights": origin,
        "dataset": {
            "name": "imagenet" if is_imagenet(data) else data.name,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": data.classes,
        },
        "seed": options.seed,
        "device": str(bench.accelerator.device),
        "precision": bench.accelerator.mixed_precision,
        "versions": library_versions(),
        "options": options.model_dump(mode="json"),
        "calibration_images": bench.calibration,
        "stages": [asdict(stage) for stage in bench.store.stages],
    }


def _say_what_was_stored(store: Store) -> None:
    cached, count = sum(stage.cached for stage in store.stages), len(store.stages)
    words = f"all {count} stages" if cached == count else f"{cached} of {count} stages"
    logger.info("%s were read from the store %s", words, store.folder)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Deterministic algorithms where they exist, for the run only."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
