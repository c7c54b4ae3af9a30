"""Threads in place of processes: work that is shared, where only the sums matter."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from basis.shard import CalibrationShard
from pipeline.runtime.share import RankSlice

PATIENCE = 600


def in_shares(count: int, images: Tensor, work: Callable[[Tensor, CalibrationShard], object]) -> list:
    """Do the work once for each part of the images, at the same time, with sums over all parts."""
    barrier, sent = threading.Barrier(count, timeout=PATIENCE), [torch.empty(0)] * count

    def shared(rank: int) -> object:
        def reduce(tensor: Tensor) -> Tensor:
            sent[rank] = tensor
            barrier.wait()
            total = torch.stack(list(sent)).sum(0)
            barrier.wait()
            return total

        mine = RankSlice(rank, count).of(len(images))
        try:
            return work(images[mine], CalibrationShard(mine.start, mine.stop - mine.start, len(images), reduce))
        except BaseException:
            barrier.abort()  # the others must not wait for this one
            raise

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(shared, range(count)))
