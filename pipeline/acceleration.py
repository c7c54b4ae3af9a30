"""The adapter to accelerate: device, precision and processes of a run."""

import torch
from accelerate import Accelerator
from torch import nn

from pipeline.errors import OptionsError

__all__ = ["Accelerator", "make_accelerator", "release"]


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


def release(accelerator: Accelerator, model: nn.Module, prepared: nn.Module) -> None:
    """Take a network back from accelerate after training, as it was before ``prepare`` but for what it learned.

    accelerate leaves a mark on what it once prepared, and a marked network, or a copy of one, would train next time
    without mixed precision.

    Args:
        accelerator: The one that prepared it.
        model: The network.
        prepared: What ``prepare`` returned for it.
    """
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    accelerator.free_memory()
    vars(model).pop("_is_accelerate_prepared", None)
    if getattr(vars(model).get("forward"), "__func__", None) is type(model).forward:
        del model.forward  # it hides the class's own method with the same


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
