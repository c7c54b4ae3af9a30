"""Adapter to accelerate: device, precision and ranks of a run."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import accelerate
import torch
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, convert_to_fp32
from torch import Tensor, nn

from basis.modes import evaluation_mode
from pipeline.errors import OptionsError
from pipeline.runtime.launcher import Launch, launched
from pipeline.runtime.processes import Processes

Network = TypeVar("Network", bound=nn.Module)

# Ranks wait this long for work that one rank does alone, such as writing and reloading the files of a long run. A rank
# that ended is noticed at once: its connections close, and the launcher ends the other ranks.
TIMEOUT = timedelta(hours=6)


class Accelerator(accelerate.Accelerator):  # type: ignore[misc] # accelerate has no types
    """Device, precision and ranks of a run.

    accelerate keeps one mixed precision for the whole process, so that two runs could not differ in it. Its own is
    therefore float32, and training applies ``autocast``.

    Attributes:
        precision: ``bf16``, or ``no`` for float32.
        fallback: The reason for float32 on a device that has bf16 instructions; empty without one.
    """

    precision: Literal["no", "bf16"] = "no"
    fallback: str = ""

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the precision of training."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield


def make_accelerator(device: str, precision: str = "auto") -> Accelerator:
    """Choose the device and the precision of training, and connect to the other ranks.

    Args:
        device: ``auto`` (the best available), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. With several ranks on CUDA,
            each takes the device of its local rank.
        precision: ``bf16``, ``fp32``, or ``auto``: bf16 if the device has bf16 instructions.

    Raises:
        OptionsError: The machine lacks the device, or has too few for its ranks; or the launcher's variables are wrong.
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
    settings = [DistributedDataParallelKwargs(), InitProcessGroupKwargs(timeout=TIMEOUT)]
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=settings)
    if precision == "bf16" or (precision == "auto" and _gains_from_bf16(on_cpu)):
        accelerator.precision = "bf16"
    return accelerator


def processes_of(accelerator: Accelerator) -> Processes:
    """Return this rank of the run; rank 0 of 1 if no launcher started the process."""
    return Processes(accelerator.process_index, accelerator.num_processes, accelerator.device)


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, example: Callable[[], Tensor]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Wrap a network and its optimizer for training; all ranks start from rank 0's values.

    Each rank computes the gradients of its slice of a batch, and every optimizer steps along their mean. The running
    statistics of batch normalization are rank 0's.

    Args:
        accelerator: Device, precision and ranks.
        model: The network, in training mode.
        optimizer: The optimizer of its parameters.
        example: Returns an image, (1, C, H, W), on the device; called only with several ranks.

    Returns:
        The wrapped network and the wrapped optimizer.
    """
    if accelerator.num_processes > 1:
        # Parameters that no output depends on get no gradient, as with one rank; DDP must search for them.
        accelerator.ddp_handler.find_unused_parameters = _has_idle_parameters(model, example())
    prepared, stepping = accelerator.prepare(_MixedPrecision(model, accelerator), optimizer)
    return prepared, stepping


class _MixedPrecision(nn.Module):
    """A network that computes in the precision of training and returns float32.

    It, and not the network, gets the marks that accelerate sets on a prepared module.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        super().__init__()
        self.network = network
        self._autocast = accelerator.autocast

    def forward(self, images: Tensor) -> Any:
        with self._autocast():
            return convert_to_fp32(self.network(images))


@contextmanager
def quiet_backward(accelerator: Accelerator) -> Iterator[None]:
    """Suppress DDP's warning of the memory format of depthwise kernels' gradients, whose cost is negligible."""
    if accelerator.num_processes == 1:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


def release(accelerator: Accelerator, model: nn.Module) -> None:
    """Free what ``prepare`` holds; the network keeps its trained values, and all ranks get rank 0's statistics.

    Args:
        accelerator: The accelerator that prepared the network.
        model: The network.
    """
    processes_of(accelerator).share_buffers(model)
    accelerator.free_memory()


def _has_idle_parameters(model: nn.Module, image: Tensor) -> bool:
    """Return True if the outputs do not depend on some trainable parameter; the network is not changed."""
    with evaluation_mode(model):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(model(image).sum(), parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _check_shared_devices(device: str, launch: Launch) -> None:
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
    """Return True if the device has bf16 instructions; emulation on a CPU is several times slower than float32."""
    if not on_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def contiguous_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make the inputs contiguous: a forward pre-hook of networks that ``placed`` leaves in contiguous memory."""
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)


def placed(model: Network, device: torch.device) -> Network:
    """Move a network to a device in channels_last, the memory format of the images, in place.

    Always use this helper: outputs differ in their last bits between memory formats. Parameters of five axes have none
    of this kind and stay as they are. So do networks with the hook ``contiguous_inputs``.
    """
    model.to(device)
    if any(hook is contiguous_inputs for hook in model._forward_pre_hooks.values()):
        return model
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model
