"""What a run ran on, for its report."""

import platform
from importlib.metadata import PackageNotFoundError, version

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
