"""Worker processes that load images: how they pass batches to the main process, and the loss of one of them."""

import os
import sys
import tempfile
from functools import cache
from logging import getLogger
from pathlib import Path
from typing import Final

from pipeline.errors import LostProcessError
from pipeline.runtime.launcher import launched

logger = getLogger(__name__)

SHARED_MEMORY: Final = Path("/dev/shm")
PREFETCHED: Final = 2
"""Batches that each worker keeps ready."""
_USED: Final = 2
"""Batches that the main process holds while it waits for the next one."""
_SOCKET_PATH: Final = 107
"""Longest path of a socket on Linux, in bytes."""
_SOCKET_NAME: Final = len("/pymp-xxxxxxxx/listener-xxxxxxxx")
_LOST: Final = "DataLoader worker", "DataLoader timed out"


def why_not_shared(
    workers: int, batches: int, batch_bytes: int, folder: Path = SHARED_MEMORY, ranks: int | None = None
) -> str:
    """Return the reason why batches cannot be passed in shared memory; empty if they can.

    Workers that run out of shared memory in the middle of a run would lose batches.

    Args:
        workers: Number of worker processes of this rank.
        batches: Number of batches that they load.
        batch_bytes: Size of a batch in bytes.
        folder: The file system of shared memory.
        ranks: Number of ranks that share it; those of the launcher by default.
    """
    count = launched().count if ranks is None else ranks
    needed = min(workers * PREFETCHED + _USED, batches) * batch_bytes * count
    free = free_bytes(folder)
    if free is not None and free < needed:
        return f"{folder} is too small for the batches of {workers} processes, or full"
    return _why_no_socket()


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of a file system that can be written; None if the platform has no such folder."""
    if not folder.is_dir():
        return 0 if sys.platform == "linux" else None
    if not os.access(folder, os.W_OK):
        return 0
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _why_no_socket() -> str:
    """Return the reason why a worker cannot open the socket over which it passes the handles of shared memory."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            parent = str(Path(folder).parent)
    except OSError as error:
        return f"the folder for temporary files cannot be used: {error.strerror or error}"
    if len(os.fsencode(parent)) + _SOCKET_NAME > _SOCKET_PATH:
        return f"the path of the folder for temporary files is too long for a socket: {parent}"
    return ""


@cache
def log_once(message: str) -> None:
    """Log a warning once per process: the images are read many times in a run."""
    logger.warning("%s", message)


def lost_worker(error: BaseException) -> LostProcessError | None:
    """Return the error to raise for a worker that ended or is stuck; None for any other error.

    PyTorch raises a ``RuntimeError`` for it, in whatever code the main process runs at that moment.
    """
    text = " ".join(str(error).split())
    if not isinstance(error, RuntimeError) or not text.startswith(_LOST):
        return None
    return LostProcessError(
        f"--workers: a process that loads images ended or did not answer ({text.rstrip('.')}); allowed: fewer "
        f"--workers (0 loads in the main process), more memory, or more space in {SHARED_MEMORY}"
    )
