"""What a run ran on, for its report."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from pipeline.acceleration import Accelerator

LIBRARIES = (
    "seriesquant",
    "torch",
    "torchvision",
    "brevitas",
    "accelerate",
    "safetensors",
    "numpy",
    "onnx",
    "onnxruntime",
)


def library_versions() -> dict[str, str]:
    """Name -> version of Python, this package and the libraries that decide its figures."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def conditions(accelerator: Accelerator) -> dict[str, Any]:
    """What the figures of the same options depend on: two results under the same conditions are the same numbers."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "versions": library_versions(),
        "device": [device.type, name],
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }
