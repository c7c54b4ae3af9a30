"""The figures of a run as the report's dictionary (report.json, schema 1)."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from basis.least_squares import fit, reconstruct
from basis.series import BASES
from basis.swap import compressible_convolutions
from pipeline.artifact import write_artifact
from pipeline.artifact.record import record_network
from pipeline.data.sources import is_imagenet
from pipeline.failure import EXIT_DONE, EXIT_GATE, SCHEMA_VERSION, run_facts
from pipeline.gate import judge
from pipeline.models.layer_orders import LayerPlan
from pipeline.options.options import Options
from pipeline.options.orders import Config
from pipeline.runtime.environment import hardware
from pipeline.stages.approximate import ApproximatedNetwork
from pipeline.stages.context import RunContext
from pipeline.stages.quantize import QuantizedNetwork
from quant.counting import compressible_params, count_params, poster_size_mb
from quant.schemes import get_format
from reports import write_report

logger = logging.getLogger(__name__)

DIGITS = 4


def row(
    options: Options,
    config: Config,
    basis: str,
    bits: int,
    network: ApproximatedNetwork,
    written: QuantizedNetwork,
    **places: Any,
) -> dict[str, Any]:
    """One row of the report: a combination of config, basis and bits; its sizes are null until its files are written.

    Args:
        options: The run's options.
        config: The combination's config.
        basis: The combination's basis.
        bits: The combination's width.
        network: The float network, with its Top-1 before and after fine-tuning.
        written: The artifact's figures.
        places: ``artifact`` (relative path), ``baseline_top1`` (percent), ``baseline_params``.
    """
    params = count_params(network.model)
    dense = config.kind == "dense"
    return {
        "basis": basis,
        "config": config.text,
        "bits": bits,
        "scheme": options.scheme,
        "stored_bits": get_format(options.scheme, bits).stored_bits,
        "backend": options.backend,
        "fit": None if dense else options.fit,
        "rounding": options.rounding,
        "epochs": network.epochs,
        "qat_epochs": options.qat_epochs,
        "finetune_s": round(network.training.seconds, 1),
        "finetune_undone": network.training.undone,
        "qat_s": round(written.training.seconds, 1),
        "qat_undone": written.training.undone,
        "top1_pre": _points(network.top1_pre),
        "top1_post": _points(network.top1_post),
        "top1_quant": _points(written.top1),
        "delta_post": _points(network.top1_post - places["baseline_top1"]),
        "delta_quant": _points(written.top1 - network.top1_post),
        "params": params,
        "params_percent": round(100 * params / places["baseline_params"], DIGITS),
        "compressible_params": compressible_params(network.model),
        "poster_size_mb": round(poster_size_mb(params, bits), 6),
        "size_mb": None,
        "artifact": places["artifact"],
        "sha256": written.sha256,
        "reloaded_logits_max_abs_diff": None,  # until all are written, and one fresh process reloads them
        **_onnx_fields(written, places["artifact"]),
    }


def _onnx_fields(written: QuantizedNetwork, artifact: str) -> dict[str, Any]:
    """The figures of the ONNX file, which has the artifact's name; all null, and the reason, where there is none."""
    return {
        "onnx": None if written.portable is None else str(PurePosixPath(artifact).with_suffix(".onnx")),
        "onnx_size_mb": None,
        "onnx_top1": _points(written.onnx.top1),
        "onnx_differing_predictions": written.onnx.differing_predictions,
        "onnx_bits": written.onnx.bits,
        "onnx_reason": written.onnx.reason,
    }


def _points(value: float | None) -> float | None:
    """Percent or percentage points, without the noise of binary fractions."""
    return None if value is None else round(value, DIGITS)


def layer_rows(
    network: ApproximatedNetwork, written: Mapping[int, QuantizedNetwork], config: Config, basis: str
) -> list[dict[str, Any]]:
    """What happened to each layer of one combination of config and basis, and how its outputs changed.

    Args:
        network: The float network.
        written: Bits -> its artifact.
        config: The combination's config.
        basis: The combination's basis.
    """
    return [
        {
            "basis": basis,
            "config": config.text,
            "name": layer.name,
            "kernel": None if layer.kernel is None else list(layer.kernel),
            "order": None if layer.order is None else list(layer.order),
            "status": layer.status,
            "reason": layer.reason,
            "fit_error": _error(network.fit_errors.get(layer.name)),
            "rounding_error": {str(bits): _error(w.rounding_errors.get(layer.name)) for bits, w in written.items()},
        }
        for layer in network.layers
    ]


def _error(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def kernel_figure(baseline: nn.Module, layers: Sequence[LayerPlan]) -> dict[str, Any] | None:
    """One filter slice beside its fits: the strongest of the first compressed layer; None where there is none."""
    planned = [layer for layer in layers if layer.order is not None]
    chosen = next((layer for layer in planned if layer.status == "compressed"), next(iter(planned), None))
    if chosen is None or chosen.order is None:
        return None
    slices = compressible_convolutions(baseline)[chosen.name].weight.detach().cpu().float().flatten(0, 1)
    kernel = slices[int(torch.linalg.vector_norm(slices, dim=(1, 2)).argmax())]
    size = (kernel.shape[0], kernel.shape[1])
    fits = {basis: reconstruct(fit(kernel, basis, chosen.order), basis, size).tolist() for basis in BASES}
    return {"layer": chosen.name, "original": kernel.tolist(), "fits": fits, "orders": list(chosen.order)}


@dataclass(frozen=True)
class VariantResult:
    """A variant's part of the report, and its files.

    Attributes:
        rows: See ``pipeline.stages.report.row``.
        layers: See ``pipeline.stages.report.layer_rows``.
        kernels: See ``pipeline.stages.report.kernel_figure``.
        files: Path in the output folder -> content.
        logits: SHA-256 of an artifact -> what its network said of the first test images.
    """

    rows: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    kernels: dict[str, Any] | None
    files: dict[str, bytes]
    logits: dict[str, Tensor]


BASELINE_PATH = "artifacts/baseline.safetensors"


def _written_report(
    options: Options, context: RunContext, results: list[VariantResult], origin: str, started: float
) -> tuple[dict[str, Any], Path]:
    """Write the baseline's artifact and the report, and give the report and where it is."""
    write_artifact(record_network(context.baseline, {}), context.identity, options.out / BASELINE_PATH)
    report = _report(options, context, results, origin)
    report["run"]["duration_s"] = round(time.monotonic() - started, 1)
    return report, write_report(report, options.out)


def _report(options: Options, context: RunContext, results: list[VariantResult], origin: str) -> dict[str, Any]:
    rows, top1 = [row for result in results for row in result.rows], round(context.top1, DIGITS)
    gate = judge(rows, top1, max_drop=options.max_drop, max_size_mb=options.max_size_mb)
    for failure in gate["failures"]:
        logger.warning("gate missed: %s", failure)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "done",
        "error": None,
        "exit_code": EXIT_GATE if gate["passed"] is False else EXIT_DONE,
        "run": _run_facts(options, context, origin),
        "baseline": {
            "top1": top1,
            "params": count_params(context.baseline),
            "size_mb": (options.out / BASELINE_PATH).stat().st_size / 1e6,
            "artifact": BASELINE_PATH,
        },
        "rows": rows,
        "layers": [layer for result in results for layer in result.layers],
        "gate": gate,
        "kernels": next((result.kernels for result in results if result.kernels), None),
    }


def _run_facts(options: Options, context: RunContext, origin: str) -> dict[str, Any]:
    data = context.data
    return run_facts(options.command(), options) | {
        "weights": origin,
        "dataset": {
            "name": "imagenet" if is_imagenet(data) else data.name,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": data.classes,
        },
        "device": _device_name(context.accelerator.device),
        "precision": context.accelerator.mixed_precision,
        "processes": context.processes.count,
        "hardware": hardware(str(context.accelerator.device)),
        "calibration_images": context.calibration,
        "stages": [asdict(stage) for stage in context.store.stages],
    }


def _device_name(device: torch.device) -> str:
    return device.type if device.type == "cpu" else str(device)
