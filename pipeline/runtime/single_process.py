"""Train in this process alone, in float32, without the process-wide state of accelerate."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor, nn


class SingleProcess:
    """The part of accelerate's ``Accelerator`` that training uses, for one process.

    An ``Accelerator`` sets a device and a precision for the whole process, which belongs to the caller of a library.

    Attributes:
        device: Any device.
        process_index: 0.
        num_processes: 1.
    """

    process_index: Final = 0
    num_processes: Final = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return both as they are."""
        return model, optimizer

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        """Scale all gradients down to a norm, and return the norm before."""
        return nn.utils.clip_grad_norm_(parameters, most)

    def free_memory(self) -> None:
        """Do nothing: no reference is kept."""
