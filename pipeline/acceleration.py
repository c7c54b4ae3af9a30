"""The adapter to accelerate: device, precision and processes of a run."""

import torch
from accelerate import Accelerator

from pipeline.errors import OptionsError

__all__ = ["Accelerator", "make_accelerator"]


def make_accelerator(device: str) -> Accelerator:
    """Choose the device and the precision of training.

    Args:
        device: ``auto`` (the best there is), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        An accelerator whose mixed precision is bf16 where the device gains from it.

    Raises:
        OptionsError: The machine has no such device.
    """
    if device.startswith("cuda"):
        _select_cuda(device)
    if device == "mps" and not torch.backends.mps.is_available():
        raise OptionsError("--device: got mps, but this machine has no MPS device; allowed here: auto, cpu")
    on_cpu = device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if _gains_from_bf16(on_cpu) else "no")


def _select_cuda(device: str) -> None:
    count = torch.cuda.device_count()
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise OptionsError(f"--device: got {device}, but this machine has {count} CUDA devices; allowed: auto, cpu")
    torch.cuda.set_device(index)


def _gains_from_bf16(on_cpu: bool) -> bool:
    """Whether bf16 has instructions of its own; emulated on a CPU without them it is several times slower."""
    if not on_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
