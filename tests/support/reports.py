"""Made-up reports with distinct figures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reports.model import Gate, Kernels, Layer, Report, Row

SHARE = {"dense": 100.0, "6,3,3,3,2": 60.7, "6,3,3,2,2": 48.6, "3,3,3,2": 58.2, "3,3,2,2": 47.6, "3,2,2,2": 44.9}
PARAMS = 11_172_032
VERSIONS = {"python": "3.11", "seriesquant": "0.1.0", "torch": "2.9"}
OPTIONS = {
    "config": ["6,3,3,2,2"],
    "bits": [4],
    "basis": ["cosine"],
    "model": "resnet18",
    "weights": None,
    "data": "digits",
    "out": "runs/a",
    "fit": "activations",
    "rounding": "gptq",
    "epochs": 5,
    "qat_epochs": 0,
    "distill": True,
    "onnx": True,
    "lr": None,
    "seed": 0,
}


def make_row(basis: str, config: str, bits: int, top1: float, **changes: Any) -> Row:
    """One row; its size follows from its parameters and bits."""
    percent = SHARE.get(config, 45.0)
    params = round(PARAMS * percent / 100)
    dense = config == "dense"
    row = {
        "basis": basis,
        "config": config,
        "bits": bits,
        "scheme": "int",
        "stored_bits": bits,
        "backend": "brevitas",
        "fit": None if dense else "activations",
        "rounding": "gptq",
        "epochs": 5,
        "qat_epochs": 0,
        "finetune_s": 270.0,
        "qat_s": 30.0,
        "top1_pre": None if dense else max(0.0, top1 - 20.125),
        "top1_post": 99.17 if dense else min(100.0, top1 + 0.3),
        "top1_quant": top1,
        "delta_post": None if dense else top1 + 0.3 - 99.17,
        "delta_quant": top1 - 99.17 if dense else -0.3,
        "delta_baseline": top1 - 99.17,
        "params": params,
        "params_percent": percent,
        "compressible_params": None,
        "poster_size_mb": params * (bits + 8) / 8e6,
        "size_mb": params * bits / 8e6 + 0.05,
        "artifact": f"artifacts/{basis}-{config}-{bits}.safetensors",
        "sha256": "ab" * 32,
        "reloaded_logits_max_abs_diff": 0.0,
        "onnx": f"artifacts/{basis}-{config}-{bits}.onnx",
        "onnx_size_mb": params * max(bits, 4) / 8e6 + 0.06,
        "onnx_top1": max(0.0, top1 - 0.01),
        "onnx_differing_predictions": 2,
        "onnx_bits": 4 if bits == 3 else bits,
        "onnx_reason": None,
    }
    return Row.model_validate(row | changes)


PAIRED = {"agreement": 97.5, "images_lost": 6, "images_gained": 2, "mcnemar_p": 0.2890625}
"""Fields of a row whose predictions were compared with the original's."""


def make_target_row(basis: str, top1: float, *, config: str = "auto", **changes: Any) -> Row:
    """One row of a target of 0.04 MB, or of the target in the changes, whose file is 1 % below its size."""
    drop, size = changes.get("target_drop"), changes.get("target_mb", 0.04)
    label = f"{size}mb" if drop is None else f"drop{drop}"
    target = {
        "bits": None,
        "target_mb": None if drop is not None else size,
        "target_met": True,
        "scheme": "stepped",
        "stored_bits": None,
        "bits_per_value": 1.5,
        "backend": None,
        "qat_s": None,
        "size_mb": 0.99 * (size or 0.04),
        "artifact": f"artifacts/{basis}-{config}-{label}.safetensors",
        "onnx": None,
        "onnx_bits": None,
        **dict.fromkeys(("top1_pre", "top1_post", "delta_post", "delta_quant", "poster_size_mb")),
    }
    row = make_row(basis, config, 4, top1).model_dump()
    return Row.model_validate(row | target | changes)


def make_layers(basis: str, config: str, errors: bool) -> list[Layer]:
    """A 7x7 stem, sixteen 3x3 convolutions, and a linear layer."""
    names = ["conv1"] + [f"layer{stage}.{block}.conv{n}" for stage in range(1, 5) for block in (0, 1) for n in (1, 2)]
    layers = [
        {
            "basis": basis,
            "config": config,
            "name": name,
            "kernel": [7, 7] if name == "conv1" else [3, 3],
            "order": [6, 6] if name == "conv1" else [2, 2] if place > 8 else [3, 3],
            "status": "full" if 0 < place <= 8 else "compressed",
            "reason": "the order is the kernel size: a change of basis" if 0 < place <= 8 else "order below kernel",
            "fit_error": (0.013 * place if place > 8 else 1e-9) if errors else None,
            "rounding_error": {"8": 0.001 + 1e-4 * place, "4": 0.02 + 2e-3 * place} if errors else None,
        }
        for place, name in enumerate(names)
    ]
    linear = {"name": "fc", "kernel": None, "order": None, "status": "kept", "reason": "linear", "fit_error": None}
    layers.append({"basis": basis, "config": config, **linear, "rounding_error": {"4": 0.01} if errors else None})
    return [Layer.model_validate(layer) for layer in layers]


def make_kernels(bases: Sequence[str]) -> Kernels:
    """A smooth 7x7 filter and fits that are near it."""
    x = np.linspace(-1, 1, 7)
    original = np.outer(np.sin(3 * x), np.exp(-(x**2))) * 0.2
    fits = {basis: original * (0.9 - 0.1 * place) for place, basis in enumerate(bases)}
    return Kernels.model_validate({"layer": "conv1", "original": original, "fits": fits, "orders": [6, 6]})


def make_dataset(name: str, classes: int, test_images: int = 10_000) -> dict[str, Any]:
    """Data of a run."""
    return {"name": name, "train_images": 50_000, "test_images": test_images, "classes": classes}


def make_gate(passed: bool | None, *failures: str, **limits: float | None) -> Gate:
    """A gate with this verdict."""
    return Gate.model_validate({"max_drop": None, "passed": passed, "failures": list(failures)} | limits)


def make_report(rows: Sequence[Row], errors: bool = False, **run: Any) -> Report:
    """A whole report around the rows; with at least one row it keeps to the schema."""
    pairs = dict.fromkeys((row.basis, row.config) for row in rows)
    bases = list(dict.fromkeys(basis for basis, _ in pairs))
    facts = {
        "command": "python run_pipeline.py --bits 4 --config 6,3,3,2,2",
        "model": "resnet18",
        "weights": "trained on the data (cached)",
        "dataset": {"name": "digits", "train_images": 1437, "test_images": 360, "classes": 10},
        "seed": 0,
        "device": "cpu",
        "precision": "no",
        "processes": 1,
        "hardware": {},
        "git_commit": None,
        "versions": VERSIONS,
        "options": OPTIONS,
        "out": "runs/a",
        "calibration_images": 1000,
        "stages": [
            {"name": "baseline: Top-1", "key": "ab12", "cached": True, "seconds": 3.5, "peak_memory_mb": 1240.2},
            {"name": "cosine 6,3,3,2,2: fit", "key": "cd34", "cached": False, "seconds": 2.25},
        ],
        "duration_s": 71.23,
    }
    content = {
        "schema_version": 1,
        "run": facts | run,
        "baseline": {"top1": 99.17, "params": PARAMS, "size_mb": 44.69, "artifact": "artifacts/baseline.safetensors"},
        "rows": list(rows),
        "layers": [layer for basis, config in pairs for layer in make_layers(basis, config, errors)],
        "gate": make_gate(None),
        "kernels": make_kernels(bases),
    }
    return Report.model_validate(content)


def many_rows(bases: Sequence[str]) -> list[Row]:
    """16 rows a basis: dense and three configs at 8, 4, 3 and 2 bits."""
    configs = ("dense", "6,3,3,3,2", "6,3,3,2,2", "2,2,2,2,2")
    return [
        make_row(basis, config, bits, 99.0 - 0.7 * c - (8 - bits) ** 2 * (0.2 if c else 0.35) - 0.2 * b * bool(c))
        for b, basis in enumerate(bases)
        for c, config in enumerate(configs)
        for bits in (8, 4, 3, 2)
    ]


Parse = Callable[[str], tuple[list[str], list[list[str]]]]


def parse_table(markdown: str) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a markdown table, with the escapes undone."""
    lines = []
    for line in markdown.splitlines():
        protected = line.replace("\\|", "\0").strip().strip("|")
        lines.append([cell.strip().replace("\0", "|").replace("\\", "") for cell in protected.split("|")])
    return lines[0], lines[2:]
