"""Load batches of a data set in worker processes, or in this process without workers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pipeline.data.dataset import seeded
from pipeline.errors import DataError
from pipeline.runtime.signals import leave_signals_to_parent, starting_workers
from pipeline.runtime.workers import PREFETCHED, SHARED_MEMORY, log_once, lost_worker, why_not_shared

PATIENCE_SECONDS: Final = 900.0
"""Longest wait for a batch. A worker decodes a batch in seconds, and in a minute on a busy machine."""
Item = tuple[Tensor, int] | str
"""An image, uint8 (H, W, 3), and its label; or the error message of a damaged image."""


def load_batches(
    images: Dataset[Item],
    batches: Sequence[list[int]],
    *,
    workers: int,
    batch_bytes: int,
    patience: float = PATIENCE_SECONDS,
    shared_memory: Path = SHARED_MEMORY,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Load batches in order.

    Workers pass batches in shared memory. If it is too small, for example 64 MB in a container, they pass them through
    pipes, and a warning is logged.

    Args:
        images: Loads an image by its index.
        batches: Indices of the images of each batch.
        workers: Largest number of worker processes; 0 loads in this process.
        batch_bytes: Size of the largest batch in bytes.
        patience: Longest wait for a batch, in seconds.
        shared_memory: The file system of shared memory.

    Yields:
        Images, uint8 (N, H, W, 3), and labels, int64 (N,).

    Raises:
        DataError: An image is damaged.
        LostProcessError: A worker ended, or no batch came within ``patience``.
    """
    count = min(workers, len(batches))
    reason = why_not_shared(count, len(batches), batch_bytes, shared_memory) if count else ""
    if reason:
        log_once(f"--workers: images are passed through pipes, which is slower, because {reason}")
    for batch in _loaded(images, batches, count, _Collate(shared=not reason), patience):
        if isinstance(batch, str):
            raise DataError(batch)
        pixels, labels = batch
        yield torch.as_tensor(pixels), torch.tensor(labels)


def _loaded(
    images: Dataset[Item], batches: Sequence[list[int]], workers: int, collate: "_Collate", patience: float
) -> Iterator[Any]:
    try:
        yield from _iterator(images, batches, workers, collate, patience)
    except RuntimeError as error:
        if (lost := lost_worker(error)) is not None:
            raise lost from None
        raise


def _iterator(
    images: Dataset[Item], batches: Sequence[list[int]], workers: int, collate: "_Collate", patience: float
) -> Iterator[Any]:
    """Start the workers; if the system has no resources for them, load in this process."""

    def loader(count: int) -> Iterator[Any]:
        several: dict[str, Any] = (
            {"timeout": patience, "prefetch_factor": PREFETCHED, "worker_init_fn": _init_worker} if count else {}
        )
        # Without a generator the loader draws from torch's global one.
        made: DataLoader[Any] = DataLoader(
            images, batch_sampler=batches, num_workers=count, collate_fn=collate, generator=seeded(0), **several
        )
        with starting_workers():
            return iter(made)

    try:
        return loader(workers)
    except OSError as error:
        if not workers:
            raise
        reason = error.strerror or error
        log_once(f"--workers: 0 instead of {workers}, because the system cannot start processes: {reason}")
        return loader(0)


def _init_worker(number: int) -> None:
    leave_signals_to_parent()


class _Collate:
    """Put the images of a batch together, in a worker where there are any.

    Args:
        shared: True to pass batches in shared memory, and False through pipes.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared

    def __call__(self, items: list[Item]) -> tuple[Tensor | np.ndarray[Any, Any], list[int]] | str:
        """Return the images and labels of a batch, or the first error message."""
        read: list[tuple[Tensor, int]] = []
        for item in items:
            if isinstance(item, str):
                return item
            read.append(item)
        images = torch.stack([image for image, _ in read])
        return self._passed(images), [label for _, label in read]  # a tensor would be passed in shared memory

    def _passed(self, images: Tensor) -> Tensor | np.ndarray[Any, Any]:
        """Return the images in the form in which they leave this process."""
        if get_worker_info() is None:
            return images
        if self._shared:
            try:
                images.share_memory_()
            except RuntimeError:  # another process has filled the shared memory meanwhile
                return images.numpy()
            return images
        return images.numpy()
