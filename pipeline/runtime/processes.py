"""The processes of a run: how they share work, bring results together, and fail together."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from basis.errors import CompressionError
from basis.shard import CalibrationShard
from pipeline.errors import BusyError, DataError, LostProcessError, OptionsError
from pipeline.runtime.launcher import mark_told
from pipeline.runtime.share import Share

Value = TypeVar("Value")
_CPU = torch.device("cpu")
_OURS = (BusyError, CompressionError, DataError, OptionsError)
# What gloo says; with NCCL a process waits until the launcher ends it.
_BROKEN_OFF = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")


@dataclass(frozen=True)
class Processes:
    """This process among those that run the same command, each with the same arguments.

    Every method is called by all of them in the same order. With one process none of them does anything.

    Attributes:
        rank: The process' number, from 0; number 0 writes and prints.
        count: How many there are.
        device: Where tensors are when they travel: the process' own CUDA device, or the CPU.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = _CPU

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """How this process' part of anything is cut."""
        return Share(self.rank, self.count)

    def portion(self, images: int) -> CalibrationShard | None:
        """Which of so many calibration images this process has, for the fit and for rounding.

        Returns:
            None where each process has all of them: there is one process, or there are fewer images than processes.
        """
        if self.count == 1 or images < self.count:
            return None
        mine = self.share.of(images)
        return CalibrationShard(mine.start, mine.stop - mine.start, images, self.sum)

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor's sum over all processes, on the tensor's device: the same in each of them."""
        if self.count == 1:
            return tensor
        total = tensor.to(self.device, copy=True).contiguous()
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, one process' after the other's.

        Args:
            rows: (n, ...) on the CPU; n may differ between the processes, and be 0 in some of them.
        """
        if self.count == 1:
            return rows
        kinds = self.gather_objects((tuple(rows.shape), rows.dtype))
        parts = []
        for rank, (shape, dtype) in enumerate(kinds):
            if shape[0]:
                part = rows if rank == self.rank else torch.empty(shape, dtype=dtype)
                part = part.to(self.device).contiguous()
                distributed.broadcast(part, src=rank)
                parts.append(part.cpu())
        return torch.cat(parts) if parts else rows

    def gather_objects(self, value: Value) -> list[Value]:
        """What each process has, in the order of their numbers; it travels as pickle."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def broadcast_tensor(self, tensor: Tensor) -> Tensor:
        """The main process' tensor, on this one's device; shape and type are the same in all processes."""
        if self.count == 1:
            return tensor
        sent = tensor.to(self.device, copy=True).contiguous()
        distributed.broadcast(sent, src=0)
        return sent.to(tensor.device)

    def broadcast(self, value: Value) -> Value:
        """What the main process has; it travels as pickle, tensors on the CPU."""
        if self.count == 1:
            return value
        box: list[Any] = [value if self.is_main else None]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        found: Value = box[0]
        return found

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Give a network the buffers that it has in the main process, such as running statistics."""
        if self.count > 1:
            for buffer in model.buffers():
                buffer.copy_(self.broadcast_tensor(buffer))

    def on_main(self, action: Callable[[], Value]) -> Value:
        """Let the main process alone do something, such as writing a file; the others wait for its result.

        Args:
            action: Returns what pickle can hold.

        Raises:
            Exception: What it raised, in all processes.
        """
        if self.count == 1:
            return action()
        done: list[Value] = []
        with self.together():
            if self.is_main:
                done.append(action())
        found: Value = self.broadcast(done[0] if done else cast(Value, None))
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def together(self) -> Generator[None]:
        """Let an error of one process end all of them: without that, the others would wait for it.

        No other method is called inside. All leave this context at the same time.

        Raises:
            Exception: That of this process, or the first one of another process, which then says of which.
        """
        if self.count == 1:
            yield
            return
        caught: Exception | None = None
        try:
            yield
        except Exception as error:
            caught = error
        place = f"process {self.rank} of {self.count}"
        errors = self.gather_objects(None if caught is None else _travelling(caught, place))
        failed = [rank for rank, error in enumerate(errors) if error is not None]
        if failed:
            raised = caught or cast(Exception, errors[failed[0]])
            if not self.is_main and failed[0] != self.rank:
                mark_told(raised, failed[0])
            raise raised


ALONE = Processes()


@contextmanager
def leaving_together() -> Generator[None]:
    """For a program: once a process has done its work, it waits for the others, which a launcher might else end.

    Raises:
        LostProcessError: The connection to another process broke off, because it ended.
    """
    try:
        yield
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
    except RuntimeError as error:
        if distributed.is_initialized() and any(words in str(error) for words in _BROKEN_OFF):
            raise LostProcessError(
                "processes: another process of this run ended or cannot be reached; its own output says why"
            ) from error
        raise


def _travelling(error: Exception, place: str) -> Exception:
    """An error as the other processes raise it: of the same class, so that the exit code is the same."""
    if isinstance(error, OSError):
        return OSError(error.errno, f"{place}: {error.strerror or error}", error.filename)
    if type(error) in _OURS:
        return type(error)(f"{place}: {error}")
    return RuntimeError(f"{place}: {type(error).__name__}: {error}")
