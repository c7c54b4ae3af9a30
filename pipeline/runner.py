"""A run: the stages in the order in which one would tell them, and its report."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from basis.swap import swap_convolutions
from pipeline.acceleration import make_accelerator
from pipeline.artifact import Identity, serialize
from pipeline.baseline import make_baseline
from pipeline.combinations import (
    Approximation,
    Bench,
    Quantized,
    approximate,
    dataset_identity,
    quantize,
    write_baseline,
)
from pipeline.config import Config, parse_config
from pipeline.data.dataset import Dataset
from pipeline.data.sources import is_imagenet, load_dataset
from pipeline.determinism import deterministic_algorithms
from pipeline.environment import hardware
from pipeline.evaluation import evaluate
from pipeline.exits import EXIT_DONE, EXIT_GATE
from pipeline.facts import SCHEMA_VERSION, run_facts
from pipeline.failure import failure_reported
from pipeline.gate import judge
from pipeline.grid import Variant, variants
from pipeline.models.registry import build_model, check_forward
from pipeline.network_record import record_network
from pipeline.options import Options
from pipeline.options_file import write_options_file
from pipeline.plan import orders_of, plan_layers
from pipeline.progress import Progress, SilentProgress
from pipeline.quantization import quantize_network
from pipeline.randomness import RandomStream
from pipeline.reload import reload_differences
from pipeline.results import DIGITS, kernel_figure, layer_rows, row
from pipeline.teacher import Teacher
from pipeline.training import Schedule
from pipeline.turns import TURNS, GivingWay
from quant.backends import get_backend
from quant.counting import count_params
from quant.schemes import get_format
from reports import result_table, write_report
from reports.files import write_atomically

logger = logging.getLogger(__name__)

OPTIONS_FILE = "options.yaml"
FINETUNE_LR = 0.02
QAT_LR = 0.01
# 256 images of 224 x 224: with these one batch through ResNet-18 stays below 4 GB.
CALIBRATION_PIXELS = 256 * 224 * 224


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: the report, where it was written, its table as text, and 0 or (a gate missed) 3."""

    report: dict[str, Any]
    report_path: Path
    text: str
    exit_code: int


def run(options: Options, progress: Progress | None = None) -> RunResult:
    """Compress a network in every combination of the options, and report.

    Args:
        options: The validated options.
        progress: Where stages and epochs are shown; None shows nothing.

    Raises:
        CompressionError: Something the caller gave cannot be used; see its subclasses for which.
        OSError: The output folder cannot be written.
    """
    started = time.monotonic()
    shown = GivingWay(progress or SilentProgress())
    with failure_reported(options), TURNS.computing(), deterministic_algorithms():
        data = load_dataset(
            options.data, limit_train=options.limit_train, limit_test=options.limit_test, workers=options.workers
        )
        _check_configs(options, data)
        write_options_file(options.out / OPTIONS_FILE, options.model_dump(mode="json"))
        bench, origin = _prepare(options, data, shown)
        identity = dataset_identity(options.model, data)
        rows, layers, kernels = _combinations(options, bench, identity)
        size = write_baseline(bench, options.out / "artifacts" / "baseline.safetensors", identity)
        _check_reload(rows, options, bench)
        baseline = _baseline_facts(bench, size)
        gate = judge(rows, baseline["top1"], max_drop=options.max_drop, max_size_mb=options.max_size_mb)
        for failure in gate["failures"]:
            logger.warning("gate missed: %s", failure)
        exit_code = EXIT_GATE if gate["passed"] is False else EXIT_DONE
        report = {
            "schema_version": SCHEMA_VERSION,
            "status": "done",
            "error": None,
            "exit_code": exit_code,
            "run": _run_facts(options, bench, origin, time.monotonic() - started),
            "baseline": baseline,
            "rows": rows,
            "layers": layers,
            "gate": gate,
            "kernels": kernels,
        }
        path = write_report(report, options.out)
    return RunResult(report, path, result_table(report), exit_code)


def plan_text(options: Options) -> str:
    """What a run would do, without training: layers, parameters and the exact artifact sizes, as text.

    Raises:
        CompressionError: The options do not fit the model or the data.
    """
    data = load_dataset(options.data, limit_train=options.limit_train, limit_test=options.limit_test, workers=0)
    _check_configs(options, data)
    identity = dataset_identity(options.model, data)
    lines = [f"{options.model} on {data.name}: {len(data.train)} training and {len(data.test)} test images"]
    for variant in variants(options):
        with RandomStream(0, torch.device("cpu")).drawn_from():
            model = build_model(options.model, data.classes)
        orders = orders_of(plan_layers(model, variant.config, options.model))
        if orders:
            model = swap_convolutions(model, orders, variant.bases[0])
        for bits in variant.bits:
            format = get_format(options.scheme, bits)
            quantized = quantize_network(model, format, get_backend(options.backend))
            size = len(serialize(record_network(model, quantized), identity)) / 1e6
            facts = f"{len(orders)} layers as series, {count_params(model):,} parameters, {size:.3f} MB"
            lines += [f"{basis} {variant.config.text}, {format}: {facts}" for basis in variant.bases]
    return "\n".join(lines)


def _check_configs(options: Options, data: Dataset) -> None:
    """Refuse what does not fit the model before anything is loaded or trained."""
    with RandomStream(0, torch.device("cpu")).drawn_from():
        model = build_model(options.model, data.classes)
    for text in options.config:
        plan_layers(model, parse_config(text), options.model)
    check_forward(model, data.classes, data.image_size)


def _prepare(options: Options, data: Dataset, progress: Progress) -> tuple[Bench, str]:
    """The baseline and its Top-1."""
    accelerator = make_accelerator(options.device)
    progress.stage(f"baseline: {options.model} on {data.name}")
    baseline = make_baseline(
        options.model,
        options.weights,
        data,
        accelerator=accelerator,
        seed=options.seed,
        fresh=options.fresh,
        progress=progress,
    )
    top1 = evaluate(baseline.model, data.test, device=accelerator.device).top1
    progress.stage(f"baseline: Top-1 {top1:.2f}")
    count = _calibration_size(options, data)
    calibration = data.train.sample(count, seed=options.seed, device=accelerator.device)
    teacher = Teacher(baseline.model, accelerator) if options.distill else None
    bench = Bench(
        baseline.model,
        top1,
        data,
        calibration,
        accelerator,
        options.seed,
        progress,
        teacher,
        options.model,
        options.fresh,
    )
    return bench, baseline.origin


def _combinations(
    options: Options, bench: Bench, identity: Identity
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:
    """Every config x basis x bits; each network is approximated and fine-tuned once."""
    rows, layers, kernels = [], [], None
    for variant in variants(options):
        bench.progress.stage(f"{variant.name}: approximate")
        finetune = Schedule(variant.epochs, options.lr or FINETUNE_LR, options.batch_size)
        network = approximate(bench, variant, options.fit, finetune)
        bench.progress.stage(f"{variant.name}: {_top1_words(network)}")
        kernels = kernels or kernel_figure(bench.baseline, network.layers)
        written = {bits: _quantized(options, variant, bits, network, bench, identity) for bits in variant.bits}
        for basis in variant.bases:
            rows += [_row(options, variant, basis, bits, network, written[bits], bench) for bits in variant.bits]
            layers += layer_rows(network, written, variant.config, basis)
    return rows, layers, kernels


def _calibration_size(options: Options, data: Dataset) -> int:
    """How many training images fit and rounding look at: all of them are in memory at once, as one batch."""
    height, width = data.image_size
    return min(options.calibration_size, len(data.train), max(1, CALIBRATION_PIXELS // (height * width)))


def _artifact(config: Config, basis: str, bits: int) -> str:
    return f"artifacts/{basis}-{config.text}-{bits}.safetensors"


def _quantized(
    options: Options, variant: Variant, bits: int, network: Approximation, bench: Bench, identity: Identity
) -> Quantized:
    format = get_format(options.scheme, bits)
    paths = [options.out / _artifact(variant.config, basis, bits) for basis in variant.bases]
    written = quantize(
        bench,
        network,
        format,
        get_backend(options.backend),
        paths[0],
        identity,
        rounding=options.rounding,
        schedule=Schedule(options.qat_epochs, QAT_LR, options.batch_size),
    )
    suffixes = (".safetensors",) if written.onnx.size is None else (".safetensors", ".onnx")
    for path in paths[1:]:
        for suffix in suffixes:
            write_atomically(path.with_suffix(suffix), paths[0].with_suffix(suffix).read_bytes())
    bench.progress.stage(f"{variant.name}, {format}: Top-1 {written.top1:.2f}, {written.size / 1e6:.3f} MB")
    return written


def _row(
    options: Options, variant: Variant, basis: str, bits: int, network: Approximation, written: Quantized, bench: Bench
) -> dict[str, Any]:
    artifact, params = _artifact(variant.config, basis, bits), count_params(bench.baseline)
    places = {"artifact": artifact, "baseline_top1": bench.top1, "baseline_params": params}
    return row(options, variant.config, basis, bits, network, written, **places)


def _check_reload(rows: list[dict[str, Any]], options: Options, bench: Bench) -> None:
    """Load every artifact in a fresh process, and give each row how far its logits are from those measured."""
    bench.progress.stage("artifacts: reload in a fresh process")
    found = reload_differences(list(bench.measured.values()), bench.data, options.model, bench.accelerator.device)
    if found is not None:
        differences = dict(zip(bench.measured, found, strict=True))
        for each in rows:
            each["reloaded_logits_max_abs_diff"] = differences[each["sha256"]]


def _top1_words(network: Approximation) -> str:
    if network.top1_pre is None:
        return f"no series, Top-1 {network.top1_post:.2f}"
    return f"Top-1 {network.top1_pre:.2f} before and {network.top1_post:.2f} after fine-tuning"


def _baseline_facts(bench: Bench, size: int) -> dict[str, Any]:
    return {
        "top1": round(bench.top1, DIGITS),
        "params": count_params(bench.baseline),
        "size_mb": size / 1e6,
        "artifact": "artifacts/baseline.safetensors",
    }


def _run_facts(options: Options, bench: Bench, origin: str, seconds: float) -> dict[str, Any]:
    data = bench.data
    return run_facts(options.command(), options) | {
        "weights": origin,
        "dataset": {
            "name": "imagenet" if is_imagenet(data) else data.name,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": data.classes,
        },
        "device": str(bench.accelerator.device),
        "precision": bench.accelerator.mixed_precision,
        "hardware": hardware(str(bench.accelerator.device)),
        "calibration_images": len(bench.calibration),
        "duration_s": round(seconds, 1),
    }
