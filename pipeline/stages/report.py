"""Write the files of a run and its report: rows and layers of report.json, schema 1."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Final

import torch

from basis.families import BASES
from basis.least_squares import fit, reconstruct
from basis.swap import compressible_convolutions
from pipeline.artifact import write_artifact
from pipeline.artifact.record import record_network
from pipeline.data.sources import is_imagenet
from pipeline.failure import run_header
from pipeline.options.orders import Config
from pipeline.runtime.environment import hardware
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, network_identity
from pipeline.stages.quantize import QuantizedNetwork
from pipeline.stages.variant import VariantResult
from quant.counting import count_params, poster_size_mb
from quant.schemes import get_format
from reports import write_report
from reports.files import write_atomically
from reports.gate import judge
from reports.model import Baseline as BaselineFigures
from reports.model import Kernels, Layer, Report, Row
from reports.run import Dataset, Hardware, Run, Stage

logger = logging.getLogger(__name__)

BASELINE_PATH: Final = "artifacts/baseline.safetensors"
_DIGITS: Final = 4  # of Top-1, in percent
_ERROR_DIGITS: Final = 6  # significant digits of a layer's error


def write_files(context: RunContext, baseline: Baseline, result: VariantResult) -> list[Row]:
    """Write a variant's files, each atomically, and build its rows with the sizes of the written files.

    Raises:
        OSError: A file cannot be written.
    """
    rows = []
    for basis in result.variant.bases:
        for bits, quantized in result.quantized.items():
            path = context.options.out / artifact_path(result.variant.config, basis, bits)
            write_atomically(path, quantized.artifact)
            if quantized.portable is None:
                path.with_suffix(".onnx").unlink(missing_ok=True)  # of an earlier run
            else:
                write_atomically(path.with_suffix(".onnx"), quantized.portable)
            rows.append(_row(context, baseline, result, basis, bits))
    return rows


def artifact_path(config: Config, basis: str, bits: int) -> str:
    """Return the path of a combination's artifact in the output folder."""
    return f"artifacts/{basis}-{config.text}-{bits}.safetensors"


def layer_rows(result: VariantResult) -> list[Layer]:
    """Describe every layer of a variant, for each of its bases: its plan and the errors of its outputs."""
    network, quantized = result.network, result.quantized
    return [
        Layer.model_validate(
            {
                "basis": basis,
                "config": result.variant.config.text,
                "name": layer.name,
                "kernel": None if layer.kernel is None else list(layer.kernel),
                "order": None if layer.order is None else list(layer.order),
                "status": layer.status,
                "reason": layer.reason,
                "fit_error": _error(network.fit_errors.get(layer.name)),
                "rounding_error": {
                    str(bits): _error(q.rounding_errors.get(layer.name)) for bits, q in quantized.items()
                },
            }
        )
        for basis in result.variant.bases
        for layer in network.layers
    ]


def merged_layers(layers: Iterable[Layer]) -> list[Layer]:
    """Join the entries of one layer, which the dense network has with and without fine-tuning at different widths."""
    merged: dict[tuple[str, str, str], Layer] = {}
    for layer in layers:
        key = (layer.basis, layer.config, layer.name)
        known = merged.get(key)
        errors = {**((known and known.rounding_error) or {}), **(layer.rounding_error or {})}
        merged[key] = (known or layer).model_copy(update={"rounding_error": errors})
    return list(merged.values())


def kernel_figure(baseline: Baseline, result: VariantResult) -> Kernels | None:
    """Reconstruct one filter slice in every basis: the largest of the first compressed layer.

    Returns:
        The slice and its fits; None if no layer is a series.
    """
    planned = [layer for layer in result.network.layers if layer.order is not None]
    chosen = next((layer for layer in planned if layer.status == "compressed"), next(iter(planned), None))
    if chosen is None or chosen.order is None:
        return None
    slices = compressible_convolutions(baseline.model)[chosen.name].weight.detach().cpu().float().flatten(0, 1)
    kernel = slices[int(torch.linalg.vector_norm(slices, dim=(1, 2)).argmax())]
    size = (kernel.shape[0], kernel.shape[1])
    fits = {basis: reconstruct(fit(kernel, basis, chosen.order), basis, size).tolist() for basis in BASES}
    return Kernels(layer=chosen.name, original=kernel.tolist(), fits=fits, orders=list(chosen.order))


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
        kernels: See ``kernel_figure``.
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
            top1=top1, params=count_params(baseline.model), size_mb=_size_mb(path), artifact=BASELINE_PATH
        ),
        rows=list(rows),
        layers=merged_layers(layers),
        gate=gate,
        kernels=kernels,
    )
    return report, write_report(report, options.out)


def _row(context: RunContext, baseline: Baseline, result: VariantResult, basis: str, bits: int) -> Row:
    """Build the row of one combination of config, basis and bits from its figures and its written files."""
    options, network, quantized = context.options, result.network, result.quantized[bits]
    config = result.variant.config
    path = artifact_path(config, basis, bits)
    onnx = None if quantized.portable is None else str(PurePosixPath(path).with_suffix(".onnx"))
    return Row.model_validate(
        {
            "basis": basis,
            "config": config.text,
            "bits": bits,
            "scheme": options.scheme,
            "stored_bits": get_format(options.scheme, bits).stored_bits,
            "backend": options.backend,
            "fit": None if config.kind == "dense" else options.fit,
            "rounding": options.rounding,
            "epochs": result.variant.epochs,
            "qat_epochs": options.qat_epochs,
            "finetune_s": round(network.training.seconds, 1),
            "finetune_undone": network.training.undone,
            "qat_s": round(quantized.training.seconds, 1),
            "qat_undone": quantized.training.undone,
            "top1_pre": _points(network.top1_pre),
            "top1_post": _points(network.top1_post),
            "top1_quant": _points(quantized.top1),
            "delta_post": _points(network.top1_post - baseline.top1),
            "delta_quant": _points(quantized.top1 - network.top1_post),
            "params": network.params,
            "params_percent": round(100 * network.params / count_params(baseline.model), _DIGITS),
            "compressible_params": network.compressible_params,
            "poster_size_mb": round(poster_size_mb(network.params, bits), 6),
            "size_mb": _size_mb(options.out / path),
            "artifact": path,
            "sha256": quantized.sha256,
            "onnx": onnx,
            "onnx_size_mb": None if onnx is None else _size_mb(options.out / onnx),
            **_onnx_figures(quantized),
        }
    )


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
        ),
        "device": device.type if device.type == "cpu" else str(device),
        "precision": context.accelerator.mixed_precision,
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


def _error(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_ERROR_DIGITS}g}")
