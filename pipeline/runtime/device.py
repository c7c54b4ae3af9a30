"""The adapter to accelerate: device, precision and processes of a run."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from pipeline.errors import OptionsError
from pipeline.runtime.launcher import Launch, launched
from pipeline.runtime.processes import Processes

__all__ = ["Accelerator", "make_accelerator", "prepare", "processes_of", "quiet_backward", "release"]

# The others wait this long for what one process does alone, such as writing and reloading the files of a long run. One
# that ended is noticed at once: its connections close, and the launcher ends the others.
PATIENCE = timedelta(hours=6)


def make_accelerator(device: str) -> Accelerator:
    """Choose the device and the precision of training, and meet the other processes that a launcher started.

    Args:
        device: ``auto`` (the best there is), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. With several processes on CUDA,
            each takes the device of its number on its machine.

    Returns:
        An accelerator whose mixed precision is bf16 where the device gains from it.

    Raises:
        OptionsError: The machine has no such device, or not one for each process; or the launcher's variables are
            wrong.
    """
    launch = launched()
    if launch.count > 1:
        _check_shared_devices(device, launch)
    if device.startswith("cuda"):
        _select_cuda(device if launch.count == 1 else f"cuda:{launch.local_rank}")
    if device == "mps" and not torch.backends.mps.is_available():
        raise OptionsError("--device: got mps, but this machine has no MPS device; allowed here: auto, cpu")
    mps = torch.backends.mps.is_available() and launch.count == 1
    on_cpu = device == "cpu" or not (torch.cuda.is_available() or mps)
    settings = [DistributedDataParallelKwargs(), InitProcessGroupKwargs(timeout=PATIENCE)]
    precision = "bf16" if _gains_from_bf16(on_cpu) else "no"
    return Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=settings)


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes that the accelerator met; one where no launcher started this one."""
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, example: Callable[[], Tensor]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Hand a network to accelerate for training; with several processes, all start from the main one's values.

    Each then computes the gradients of its share of a batch, and every optimizer steps along their mean. The running
    statistics of batch normalization are the main process' own.

    Args:
        accelerator: Device, precision and processes.
        model: The network, in training mode.
        optimizer: It steps the network's parameters.
        example: Gives an image, (1, 3, H, W), on the device; asked only with several processes.

    Returns:
        What to call, and what steps.
    """
    if accelerator.num_processes > 1:
        # Parameters that no output depends on get no gradient, as in one process; DDP has to be told to look for them.
        accelerator.ddp_handler.find_unused_parameters = _has_idle_parameters(model, example())
    prepared, stepping = accelerator.prepare(model, optimizer)
    return prepared, stepping


@contextmanager
def quiet_backward(accelerator: Accelerator) -> Iterator[None]:
    """Keep back what DDP says of the layout of depthwise kernels' gradients, which costs nothing worth a warning."""
    if accelerator.num_processes == 1:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


def release(accelerator: Accelerator, model: nn.Module, prepared: nn.Module) -> None:
    """Take a network back from accelerate after training, as it was before ``prepare`` but for what it learned.

    With several processes, all of them then have the main one's running statistics. accelerate leaves a mark on what it
    once prepared, and a marked network, or a copy of one, would train next time without mixed precision.

    Args:
        accelerator: The one that prepared it.
        model: The network.
        prepared: What ``prepare`` returned for it.
    """
    processes_of(accelerator).share_buffers(model)
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    accelerator.free_memory()
    vars(model).pop("_is_accelerate_prepared", None)
    if getattr(vars(model).get("forward"), "__func__", None) is type(model).forward:
        del model.forward  # it hides the class's own method with the same


def _has_idle_parameters(model: nn.Module, image: Tensor) -> bool:
    """Whether a network has parameters to train that its outputs do not depend on; the network is left as it is."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(model(image).sum(), parameters, allow_unused=True)
    finally:
        for module in training:
            module.training = True
    return any(gradient is None for gradient in gradients)


def _check_shared_devices(device: str, launch: Launch) -> None:
    """Refuse what would put two processes on one device."""
    if device == "mps" or device.startswith("cuda:"):
        raise OptionsError(
            f"--device: got {device} with {launch.count} processes; allowed: auto, cpu, or cuda, where each process "
            "takes the device of its LOCAL_RANK"
        )
    devices = torch.cuda.device_count()
    if device != "cpu" and devices and launch.local_rank >= devices:
        raise OptionsError(
            f"--device: got {device} with LOCAL_RANK {launch.local_rank}, but this machine has {devices} CUDA devices; "
            "allowed: one process for each device"
        )


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


Network = TypeVar("Network", bound=nn.Module)


def placed(model: Network, device: torch.device) -> Network:
    """Move a network, in place, to a device and to channels_last, the layout that images come in."""
    return model.to(device).to(memory_format=torch.channels_last)
