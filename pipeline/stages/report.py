"""Write the files of a run and its report: the rows of report.json, schema 1."""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Final

from pipeline.artifact import write_artifact
from pipeline.artifact.record import record_network
from pipeline.data.dataset import is_imagenet
from pipeline.failure import run_header
from pipeline.models.digest import content_digest
from pipeline.options.grid import Target, Variant
from pipeline.options.naming import shortened
from pipeline.options.orders import DENSE
from pipeline.runtime.environment import hardware
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, network_identity
from pipeline.stages.evaluate import Measurement
from pipeline.stages.layers import count_kept, joined_widths
from pipeline.stages.predictions import compare
from pipeline.stages.quantize import QuantizedNetwork
from pipeline.stages.train import TrainingSummary
from pipeline.stages.variant import VariantResult
from quant.counting import count_params, poster_size_mb
from quant.schemes import get_format
from quant.stepped import SteppedFormat
from reports import write_report
from reports.files import write_atomically
from reports.gate import judge
from reports.model import Baseline as BaselineFigures
from reports.model import Kernels, Layer, Report, Row
from reports.paired import mcnemar
from reports.run import Dataset, Hardware, Run, Stage
from reports.warnings import fallen_rows

logger = logging.getLogger(__name__)

BASELINE_PATH: Final = "artifacts/baseline.safetensors"
_DIGITS: Final = 4  # of Top-1 in percent, and of bits per value


def write_files(context: RunContext, baseline: Baseline, result: VariantResult) -> list[Row]:
    """Write a variant's files, each atomically, and build its rows with the sizes of the written files.

    Raises:
        OSError: A file cannot be written.
    """
    rows = []
    for basis in result.variant.bases:
        for width, quantized in result.quantized.items():
            path = context.options.out / artifact_path(result.variant, basis, width)
            write_atomically(path, quantized.artifact)
            if quantized.portable is None:
                path.with_suffix(".onnx").unlink(missing_ok=True)  # of an earlier run
            else:
                write_atomically(path.with_suffix(".onnx"), quantized.portable)
            rows.append(_row(context, baseline, result, basis, width))
    return rows


def artifact_path(variant: Variant, basis: str, width: int | Target) -> str:
    """Return the path of a combination's artifact in the output folder; a long config in it is shortened."""
    name = width.label if isinstance(width, Target) else width
    return f"artifacts/{basis}-{shortened(variant.config.text)}-{name}.safetensors"


def write_run_report(
    context: RunContext,
    baseline: Baseline,
    rows: Sequence[Row],
    layers: Sequence[Layer],
    kernels: Kernels | None,
    started: float,
) -> tuple[Report, Path]:
    """Write the baseline's artifact and the report.

    Args:
        context: The run.
        baseline: The uncompressed network.
        rows: The rows of all variants, verified.
        layers: The layers of all variants.
        kernels: See ``pipeline.stages.kernels.kernel_figure``.
        started: ``time.monotonic()`` at the start of the run.

    Returns:
        The report and the path of report.md.

    Raises:
        OSError: A file cannot be written.
    """
    options, path = context.options, context.options.out / BASELINE_PATH
    write_artifact(record_network(baseline.model, {}), network_identity(context), path)
    top1 = round(baseline.top1, _DIGITS)
    gate = judge(rows, top1, max_drop=options.max_drop, max_size_mb=options.max_size_mb)
    for failure in gate.failures:
        logger.warning("gate missed: %s", failure)
    report = Report(
        schema_version=1,
        exit_code=gate.exit_code,
        run=_run_header(context, baseline, started),
        baseline=BaselineFigures(
            top1=top1,
            top5=_points(baseline.measured.top5) if baseline.measured else None,
            params=count_params(baseline.model),
            size_mb=_size_mb(path),
            artifact=BASELINE_PATH,
            warnings=list(baseline.warnings),
            epoch=baseline.epoch,
            digest=content_digest(baseline.model),
        ),
        rows=list(rows),
        layers=joined_widths(layers),
        gate=gate,
        kernels=kernels,
    )
    for warning in fallen_rows(report):
        logger.warning("%s", warning)
    return report, write_report(report, options.out)


def _row(context: RunContext, baseline: Baseline, result: VariantResult, basis: str, width: int | Target) -> Row:
    """Build the row of one combination of config, basis and width or target from its figures and its written files."""
    options, quantized, config = context.options, result.quantized[width], result.variant.config
    path = artifact_path(result.variant, basis, width)
    onnx = None if quantized.portable is None else str(PurePosixPath(path).with_suffix(".onnx"))
    if isinstance(width, Target):
        figures = _target_figures(baseline, width, quantized)
    else:
        figures = _width_figures(context, baseline, result, width)
    return Row.model_validate(
        {
            "basis": basis,
            "config": config.text,
            "bits_per_value": round(quantized.bits_per_value, _DIGITS),
            "fit": None if config.kind == DENSE else result.variant.fit(options),
            "rounding": result.variant.rounding(options),
            "epochs": result.variant.epochs,
            "qat_epochs": options.qat_epochs,
            "top1_quant": _points(quantized.top1),
            "delta_baseline": _points(quantized.top1 - baseline.top1),
            "size_mb": _size_mb(options.out / path),
            "file_bytes": quantized.file_bytes,
            "inference_ms": quantized.inference.artifact,
            "original_inference_ms": quantized.inference.original,
            "onnx_inference_ms": quantized.inference.onnx,
            "artifact": path,
            "sha256": quantized.sha256,
            "onnx": onnx,
            "onnx_size_mb": None if onnx is None else _size_mb(options.out / onnx),
            **figures,
            **_onnx_figures(quantized),
            **_paired_figures(baseline.measured, quantized.measured),
        }
    )


def _width_figures(context: RunContext, baseline: Baseline, result: VariantResult, bits: int) -> dict[str, object]:
    """Return the fields of a row of a fixed width that ``_target_figures`` fills in another way."""
    options, network, quantized = context.options, result.network, result.quantized[bits]
    top1 = baseline.top1 if network.top1_post is None else network.top1_post
    return {
        "bits": bits,
        "scheme": options.scheme,
        "stored_bits": get_format(options.scheme, bits).stored_bits,
        "backend": options.backend,
        **_training_figures("finetune", network.training),
        **_training_figures("qat", quantized.training),
        "top1_pre": _points(network.top1_pre),
        "top1_post": _points(top1),
        "delta_post": _points(top1 - baseline.top1),
        "delta_quant": _points(quantized.top1 - top1),
        "compressible_params": network.compressible_params,
        "poster_size_mb": round(poster_size_mb(network.params, bits), 6),
        **_params(network.params, baseline),
    }


def _target_figures(baseline: Baseline, target: Target, quantized: QuantizedNetwork) -> dict[str, object]:
    """Return the fields of a row of a target; no float network was measured, so its figures are None."""
    return {
        "bits": None,
        "target_mb": target.megabytes,
        "target_drop": target.drop,
        "target_met": quantized.target_met,
        "scheme": SteppedFormat.scheme,
        "stored_bits": None,
        "backend": None,
        **_training_figures("finetune", quantized.training),
        "finetune_fault": quantized.training.fault,
        **dict.fromkeys(("top1_pre", "top1_post", "delta_post", "delta_quant", "poster_size_mb")),
        **_params(count_kept(baseline.model, quantized.terms), baseline),
    }


def _training_figures(name: str, training: TrainingSummary) -> dict[str, object]:
    return {
        f"{name}_s": round(training.seconds, 1),
        f"{name}_undone": training.undone,
        f"{name}_epoch": training.epoch,
        f"{name}_loss_before": training.loss_before,
        f"{name}_loss_after": training.loss_after,
    }


def _paired_figures(original: Measurement | None, measured: Measurement) -> dict[str, object]:
    """Return the fields that compare the predictions of two networks; none if the original was not measured."""
    if original is None:
        return {}
    found = compare(original.predictions, measured.predictions)
    return {
        "top5_quant": _points(measured.top5),
        "agreement": _points(found.agreement),
        "images_lost": found.lost,
        "images_gained": found.gained,
        "mcnemar_p": mcnemar(found.lost, found.gained),
    }


def _params(count: int, baseline: Baseline) -> dict[str, object]:
    return {"params": count, "params_percent": round(100 * count / count_params(baseline.model), _DIGITS)}


def _onnx_figures(quantized: QuantizedNetwork) -> dict[str, object]:
    figures = quantized.onnx
    return {
        "onnx_top1": _points(figures.top1),
        "onnx_differing_predictions": figures.differing_predictions,
        "onnx_bits": figures.bits,
        "onnx_reason": figures.reason,
    }


def _run_header(context: RunContext, baseline: Baseline, started: float) -> Run:
    options, data, device = context.options, context.data, context.device
    known = run_header(options.command(), options) | {
        "weights": baseline.origin,
        "dataset": Dataset(
            name="imagenet" if is_imagenet(data) else data.name,
            train_images=len(data.train),
            test_images=len(data.test),
            classes=data.classes,
            mean=list(data.normalization.mean),
            std=list(data.normalization.std),
            image_size=list(data.image_size),
            notes=[*data.notes, *baseline.notes],
            digest=hashlib.sha256(f"{data.train.digest} {data.test.digest}".encode()).hexdigest(),
        ),
        "device": device.type if device.type == "cpu" else str(device),
        "precision": context.accelerator.precision,
        "processes": context.processes.count,
        "hardware": Hardware(**hardware(str(device))),
        "calibration_images": context.calibration_count,
        "stages": [Stage(**asdict(stage)) for stage in context.store.stages],
        "duration_s": round(time.monotonic() - started, 1),
    }
    return Run(**known)


def _size_mb(path: Path) -> float:
    """Return the size of a written file in 10^6 bytes."""
    return path.stat().st_size / 1e6


def _points(value: float | None) -> float | None:
    """Round percent or percentage points, without the noise of binary fractions."""
    return None if value is None else round(value, _DIGITS)
