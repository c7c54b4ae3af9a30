"""Shared memory of the processes that load images, and their loss."""

import tempfile

import pytest

from pipeline.errors import LostProcessError
from pipeline.failure import failure_of
from pipeline.runtime.workers import free_bytes, lost_worker, why_not_shared


def test_enough_memory_is_no_reason(tmp_path):
    assert why_not_shared(2, 9, 1000, tmp_path, ranks=1) == ""


def test_too_little_memory_is_a_reason(tmp_path):
    free = free_bytes(tmp_path)
    reason = why_not_shared(2, 9, free // 4, tmp_path, ranks=1)
    assert str(tmp_path) in reason
    assert "2 processes" in reason
    assert why_not_shared(2, 1, free // 4, tmp_path, ranks=1) == "", "one batch fits"


def test_all_ranks_share_it(tmp_path):
    fits = free_bytes(tmp_path) // 8
    assert why_not_shared(1, 9, fits, tmp_path, ranks=1) == ""
    assert str(tmp_path) in why_not_shared(1, 9, fits, tmp_path, ranks=8)


def test_a_missing_file_system_has_no_space(tmp_path):
    assert free_bytes(tmp_path / "missing") == 0
    assert str(tmp_path) in why_not_shared(1, 9, 1000, tmp_path / "missing", ranks=1)


def test_a_folder_for_sockets_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert "temporary files" in why_not_shared(1, 9, 1000, tmp_path, ranks=1)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert "too long" in why_not_shared(1, 9, 1000, tmp_path, ranks=1)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
        "DataLoader timed out after 900 seconds",
    ],
)
def test_a_lost_worker_is_a_sentence_wherever_it_is_noticed(message):
    failure = failure_of(RuntimeError(message))
    assert (failure.type, failure.exit_code, failure.known) == ("LostProcessError", 1, True)
    assert all(word in failure.message for word in ("--workers", "/dev/shm"))


def test_other_errors_are_no_lost_workers():
    assert lost_worker(RuntimeError("shapes differ")) is None
    assert lost_worker(ValueError("DataLoader worker")) is None
    assert isinstance(lost_worker(RuntimeError("DataLoader worker (pid 1)")), LostProcessError)
