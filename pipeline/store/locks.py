"""Locks between processes, which end with the process that holds them, however it ends."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import BusyError
from pipeline.runtime.turns import TURNS

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.1


@contextmanager
def locked(path: Path, what: str, timeout: float) -> Generator[None]:
    """Hold a lock file, which says who holds it. It is left behind: to remove it would split those who wait for it.

    Args:
        path: The lock file; its folder exists.
        what: What is locked, for messages.
        timeout: Seconds to wait for another process.

    Raises:
        BusyError: Another process held it all that time.
        OSError: The file cannot be made.
    """
    lock = FileLock(path)
    _acquire(lock, path, what, timeout)
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, what: str, timeout: float) -> None:
    try:
        lock.acquire(blocking=False)
        return
    except Timeout:
        logger.info("%s is in use by %s: waiting, %g s at the most", what, _holder(path), timeout)
    try:
        with TURNS.released():  # who holds it may be a thread that waits to be alone
            lock.acquire(timeout=timeout, poll_interval=SECONDS_BETWEEN_TRIES)
    except Timeout:
        raise BusyError(
            f"{what} is in use by {_holder(path)}, and was not free within {timeout:g} s; "
            "wait for the end of that, or for longer with --lock-timeout"
        ) from None


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
