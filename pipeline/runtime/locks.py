"""Locks between processes. The operating system releases a lock when its process ends, however it ends."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import BusyError
from pipeline.runtime.turns import TURNS

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.1


@contextmanager
def locked(path: Path, what: str, timeout: float) -> Generator[None]:
    """Hold a lock file, whose text names the holder.

    The file stays after the release: a process that waits for a removed file would hold a lock that no other sees.

    Args:
        path: The lock file; its folder exists.
        what: The name of the locked thing, for messages.
        timeout: Seconds to wait for another process.

    Raises:
        BusyError: Another process did not release the lock in time.
        OSError: The file cannot be created.
    """
    lock = FileLock(path)
    _acquire(lock, path, what, timeout)
    try:
        with suppress(OSError):  # as on a full disk: the lock is held all the same
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, what: str, timeout: float) -> None:
    try:
        lock.acquire(blocking=False)
        return
    except Timeout:
        if timeout > 0:
            logger.info("%s is in use by %s: waiting, %g s at the most", what, _holder(path), timeout)
    try:
        with TURNS.released():  # the holder may be a thread that waits for exclusive use of the process
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
