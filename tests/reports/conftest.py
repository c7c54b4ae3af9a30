"""Reports made up for the tests: the shape of report.json with figures that are easy to tell apart."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

SHARE = {"dense": 100.0, "6,3,3,3,2": 60.7, "6,3,3,2,2": 48.6, "3,3,3,2": 58.2, "3,3,2,2": 47.6, "3,2,2,2": 44.9}
PARAMS = 11_172_032


def make_row(basis: str, config: str, bits: int, top1: float, **changes: Any) -> dict[str, Any]:
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
        "top1_pre": None if dense else top1 - 20.125,
        "top1_post": 99.17 if dense else top1 + 0.3,
        "top1_quant": top1,
        "delta_post": None if dense else top1 + 0.3 - 99.17,
        "delta_quant": top1 - 99.17 if dense else -0.3,
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
        "onnx_top1": top1 - 0.01,
        "onnx_differing_predictions": 2,
        "onnx_bits": 4 if bits == 3 else bits,
        "onnx_reason": None,
    }
    return row | changes


def make_layers(basis: str, config: str, errors: bool) -> list[dict[str, Any]]:
    """Twenty convolutions of 3x3 after a 7x7 stem, and a linear layer."""
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
    return [*layers, {"basis": basis, "config": config, **linear, "rounding_error": {"4": 0.01} if errors else None}]


def make_kernels(bases: Sequence[str]) -> dict[str, Any]:
    """A smooth 7x7 filter and fits that are near it."""
    x = np.linspace(-1, 1, 7)
    original = np.outer(np.sin(3 * x), np.exp(-(x**2))) * 0.2
    fits = {basis: (original * (0.9 - 0.1 * place)).tolist() for place, basis in enumerate(bases)}
    return {"layer": "conv1", "original": original.tolist(), "fits": fits, "orders": [6, 6]}


def make_report(rows: list[dict[str, Any]], errors: bool = False, **run: Any) -> dict[str, Any]:
    """A whole report around the rows."""
    pairs = dict.fromkeys((row["basis"], row["config"]) for row in rows)
    bases = list(dict.fromkeys(basis for basis, _ in pairs))
    return {
        "schema_version": 1,
        "run": {
            "command": "python run_pipeline.py --bits 4 --config 6,3,3,2,2",
            "model": "resnet18",
            "weights": "trained on the data (cached)",
            "dataset": {"name": "digits", "train_images": 1437, "test_images": 360, "classes": 10},
            "seed": 0,
            "device": "cpu",
            "precision": "no",
            "versions": {"seriesquant": "0.1.0", "python": "3.11"},
            "options": {"bits": [4], "config": ["6,3,3,2,2"], "lr": None},
            "duration_s": 71.23,
            "calibration_images": 1000,
            "stage_seconds": {"approximate": 2.5},
        }
        | run,
        "baseline": {"top1": 99.17, "params": PARAMS, "size_mb": 44.69, "artifact": "artifacts/baseline.safetensors"},
        "rows": rows,
        "layers": [layer for basis, config in pairs for layer in make_layers(basis, config, errors)],
        "gate": {"max_drop": None, "passed": None},
        "kernels": make_kernels(bases),
    }


def many_rows(bases: Sequence[str]) -> list[dict[str, Any]]:
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


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    """`make_row`."""
    return make_row


@pytest.fixture
def report() -> Callable[..., dict[str, Any]]:
    """`make_report`."""
    return make_report


@pytest.fixture
def many() -> Callable[[Sequence[str]], list[dict[str, Any]]]:
    """`many_rows`."""
    return many_rows


@pytest.fixture
def parse() -> Parse:
    """`parse_table`."""
    return parse_table
