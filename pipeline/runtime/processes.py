"""The ranks of a run: collective operations, and errors that end all ranks together."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from basis.errors import CompressionError
from basis.shard import CalibrationShard
from pipeline.errors import LostProcessError
from pipeline.runtime.launcher import mark_reported_by, mark_shared
from pipeline.runtime.share import RankSlice

Value = TypeVar("Value")
_CPU = torch.device("cpu")
# Messages of gloo; with NCCL a rank waits until the launcher ends it.
_CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")


@dataclass(frozen=True)
class Processes:
    """This rank of a run whose processes execute the same command with the same arguments.

    All ranks call every method in the same order. With one process, no method communicates.

    Attributes:
        rank: From 0; rank 0 writes and prints.
        count: Number of ranks.
        device: Device of tensors in collective operations: the rank's CUDA device, or the CPU.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = _CPU

    @property
    def is_main(self) -> bool:
        """Return True if this rank writes and prints."""
        return self.rank == 0

    @property
    def share(self) -> RankSlice:
        """Return the slice rule of this rank."""
        return RankSlice(self.rank, self.count)

    def calibration_shard(self, images: int) -> CalibrationShard | None:
        """Return this rank's shard of ``images`` calibration images, for the fit and for rounding.

        Returns:
            None if every rank holds all images: there is one rank, or there are fewer images than ranks.
        """
        if self.count == 1 or images < self.count:
            return None
        mine = self.share.of(images)
        return CalibrationShard(mine.start, mine.stop - mine.start, images, self.sum)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on the tensor's device; it is the same in every rank."""
        if self.count == 1:
            return tensor
        total = tensor.to(self.device, copy=True).contiguous()
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of all ranks, in the order of the ranks.

        Args:
            rows: (n, ...), on the CPU; n may differ between the ranks, and may be 0.

        Returns:
            (sum of n, ...), on the CPU.
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
        """Return the values of all ranks, in the order of the ranks; they are pickled."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def broadcast_tensor(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor, on the device of ``tensor``; its shape and dtype are the same in all ranks."""
        if self.count == 1:
            return tensor
        sent = tensor.to(self.device, copy=True).contiguous()
        distributed.broadcast(sent, src=0)
        return sent.to(tensor.device)

    def broadcast(self, value: Value) -> Value:
        """Return rank 0's value; it is pickled, with tensors on the CPU."""
        if self.count == 1:
            return value
        box: list[Any] = [value if self.is_main else None]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        found: Value = box[0]
        return found

    @torch.no_grad()
    def share_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers, such as running statistics, into a network."""
        if self.count > 1:
            for buffer in model.buffers():
                buffer.copy_(self.broadcast_tensor(buffer))

    def on_main(self, action: Callable[[], Value]) -> Value:
        """Run ``action`` in rank 0 only, such as writing a file, and return its result in all ranks.

        Args:
            action: Its result must be picklable.

        Raises:
            Exception: The error of ``action``, in all ranks.
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
        """Block until all ranks call this."""
        if self.count > 1:
            distributed.barrier()

    @contextmanager
    def together(self) -> Generator[None]:
        """Raise an error of one rank in all ranks, which would otherwise wait for it.

        No other method may be called inside. All ranks leave this context at the same time.

        Raises:
            Exception: The error of this rank, or else the first error of another rank, with its rank in the message.
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
        errors = self.gather_objects(None if caught is None else _picklable(caught, place))
        failed = [rank for rank, error in enumerate(errors) if error is not None]
        if failed:
            raised = caught or cast(Exception, errors[failed[0]])
            if not self.is_main and failed[0] != self.rank:
                mark_reported_by(raised, failed[0])
            mark_shared(raised)
            raise raised


ALONE = Processes()


@contextmanager
def exit_barrier() -> Generator[None]:
    """Wait for the other ranks at the end of a program, because a launcher may end the ranks that are still at work.

    Raises:
        LostProcessError: Another rank ended, and its connection broke.
    """
    try:
        yield
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
    except RuntimeError as error:
        if distributed.is_initialized() and any(words in str(error) for words in _CONNECTION_LOST):
            raise LostProcessError(
                "processes: another process of this run ended or cannot be reached; see its output for the cause"
            ) from error
        raise


def wait_after_shared_error() -> None:
    """Wait until all ranks have reported an error that all of them raise: a launcher ends the others after the first.

    Return at once if there is no group of processes, or if another rank ended before it came here.
    """
    if distributed.is_initialized():
        with suppress(RuntimeError):  # the connection to a rank that ended
            distributed.barrier()


def _picklable(error: Exception, place: str) -> Exception:
    """Return the error as the other ranks raise it: of the same class, so that the exit code is the same."""
    if isinstance(error, OSError):
        return OSError(error.errno, f"{place}: {error.strerror or error}", error.filename)
    if isinstance(error, CompressionError):
        return type(error)(f"{place}: {error}")
    return RuntimeError(f"{place}: {type(error).__name__}: {error}")
