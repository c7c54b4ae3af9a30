"""Describe the software and the machine of a run, for its report; imports no torch and raises no error."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.runtime.threads import usable_cpus

LIBRARIES = (
    "seriesquant",
    "torch",
    "torchvision",
    "brevitas",
    "accelerate",
    "safetensors",
    "numpy",
    "scikit-learn",
    "pillow",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "timm",
    "torchao",
)
CPUINFO = Path("/proc/cpuinfo")
_ROOT = Path(__file__).resolve().parents[2]


def library_versions() -> dict[str, str]:
    """Return name -> version of Python, this package and the libraries that its figures depend on."""
    return {"python": platform.python_version(), **{name: package_version(name) for name in LIBRARIES}}


@cache
def package_version(name: str = "seriesquant") -> str:
    """Return the version of an installed package, or ``not installed``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def git_commit(root: Path = _ROOT, patience: float = 2.0) -> str | None:
    """Return the commit of this code's checkout, with the suffix ``-dirty`` if tracked files differ from it.

    Args:
        root: The folder that holds the packages.
        patience: Longest wait for git, in seconds.

    Returns:
        None for an installed package, which is no checkout, or if git is missing, fails or takes longer.
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def hardware(device: str | None = None, cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """Describe the machine.

    Args:
        device: The run's device, such as ``cuda:0``; None if it is not known yet.
        cpuinfo: The file that holds the CPU's name on Linux.

    Returns:
        ``cpu`` (its name), ``cores`` (available to this process), ``threads`` (of torch; None before its import),
        ``memory_gb`` (10^9 bytes) and ``accelerator`` (its name; None on the CPU). A value that cannot be read is None.
    """
    torch = sys.modules.get("torch")
    return {
        "cpu": _cpu_name(cpuinfo),
        "cores": len(usable_cpus()),
        "threads": torch.get_num_threads() if torch else None,
        "memory_gb": _memory_gb(),
        "accelerator": _accelerator_name(device, torch),
    }


def peak_memory_mb() -> float | None:
    """Return the largest resident memory of this process so far, in 10^6 bytes; None if it is not counted."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _cpu_name(cpuinfo: Path) -> str | None:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(named, None) or platform.processor() or platform.machine() or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 2)
    except (AttributeError, OSError, ValueError):
        return None


def _accelerator_name(device: str | None, torch: Any) -> str | None:
    if torch is None or device is None or device == "cpu":
        return None
    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") else device
