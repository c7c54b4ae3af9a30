"""Batches from worker processes: through shared memory, through pipes, and after the loss of a worker."""

import gc
import os
import signal
import threading
import time

import pytest
import torch
from torch.utils.data import get_worker_info

from pipeline.data import loading
from pipeline.data.dataset import batch_indices, batches_of_epoch, seeded
from pipeline.data.loading import load_batches
from pipeline.errors import DataError, LostProcessError
from pipeline.runtime.signals import leave_signals_to_parent
from pipeline.runtime.workers import log_once

BATCHES = [[0, 1, 2], [3, 4], [5]]


class Numbered:
    """Images whose pixels are their index."""

    def __getitem__(self, index):
        return torch.full((4, 4, 3), index, dtype=torch.uint8), 10 * index


class Doomed(Numbered):
    """Loads no image in a worker but what ``fate`` does there."""

    def __init__(self, fate):
        self.fate = fate

    def __getitem__(self, index):
        if get_worker_info() is not None:
            return self.fate()
        return super().__getitem__(index)


def load(images=None, workers=2, **options):
    options = {"batch_bytes": 3 * 48, **options}
    return [
        ([int(image[0, 0, 0]) for image in pixels], labels.tolist())
        for pixels, labels in load_batches(images or Numbered(), BATCHES, workers=workers, **options)
    ]


EXPECTED = [(batch, [10 * index for index in batch]) for batch in BATCHES]


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
def test_workers_change_nothing(workers):
    assert load(workers=workers) == EXPECTED


def test_little_shared_memory_is_not_used_and_that_is_logged(tmp_path, caplog):
    log_once.cache_clear()
    assert load(batch_bytes=10**15, shared_memory=tmp_path) == EXPECTED
    assert load(batch_bytes=10**15, shared_memory=tmp_path) == EXPECTED
    (record,) = caplog.records
    assert all(word in record.getMessage() for word in ("--workers", str(tmp_path)))


def test_shared_memory_that_fills_up_later_is_no_loss(monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    assert load() == EXPECTED


@pytest.mark.parametrize("fate", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3)])
def test_a_worker_that_ends_is_an_error(fate):
    with pytest.raises(LostProcessError, match=r"--workers.*/dev/shm"):
        load(Doomed(fate))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_the_workers_to_the_main_process(number, monkeypatch):
    """The main process stopped with "a process ended" in place of the signal's exit code.

    A worker has threads from the beginning: torch starts its pool again if the main process had one.
    """

    def leave():
        for _ in range(8):
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        leave_signals_to_parent()

    monkeypatch.setattr(loading, "leave_signals_to_parent", leave)

    class Signalled(Numbered):
        def __getitem__(self, index):
            if get_worker_info() is not None:
                os.kill(os.getpid(), number)
            return super().__getitem__(index)

    assert load(Signalled()) == EXPECTED


def test_a_worker_that_is_stuck_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # the wait before it is ended
    with pytest.raises(LostProcessError, match=r"--workers.*/dev/shm"):
        load(Doomed(lambda: time.sleep(600)), patience=1.0)
    gc.collect()  # the error and its frames hold the loader


def test_a_system_without_processes_loads_in_this_one(monkeypatch, caplog):
    def refuse(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    log_once.cache_clear()
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    assert load() == EXPECTED
    assert all(word in caplog.text for word in ("--workers", "temporarily unavailable"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_message_instead_of_an_image_is_raised(workers):
    class Damaged(Numbered):
        def __getitem__(self, index):
            return "4.png is damaged" if index == 4 else super().__getitem__(index)

    with pytest.raises(DataError, match=r"4\.png"):
        load(Damaged(), workers)


def test_patience_is_for_minutes():
    assert loading.PATIENCE_SECONDS >= 600


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (65, 64, [64]),
        (66, 64, [64, 2]),
        (64, 64, [64]),
        (129, 64, [64, 64]),
        (191, 64, [64, 64]),
        (3, 2, [2]),
        (4, 2, [2, 2]),
        (1, 64, [1]),
        (3, 1, [1, 1, 1]),
        (5, 64, [5]),
    ],
)
def test_no_last_batch_has_a_single_image(count, size, expected):
    batches = list(batch_indices(count, size, seeded(0), augment=True))
    assert [len(batch) for batch in batches] == expected
    assert batches_of_epoch(count, size) == len(expected)
    assert len(set(torch.cat(batches).tolist())) == sum(expected)
    measured = batch_indices(count, size, None, augment=False)
    assert sum(len(batch) for batch in measured) == count, "every image is measured"
