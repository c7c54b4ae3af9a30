"""What is in the store, and clearing it out; loads nothing heavy, and reads no tensors."""

import json
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from filelock import FileLock, Timeout

from reports.files import PART

_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredFile:
    """A file of the store.

    Attributes:
        path: Where it is.
        name: The stage that it is of; ``unreadable`` where its header does not say.
        kind: ``result``, ``checkpoint`` or ``half written``.
        size: Bytes.
        age: Seconds since it was written.
    """

    path: Path
    name: str
    kind: str
    size: int
    age: float


def list_store(folder: Path) -> list[StoredFile]:
    """Every file that the store made, the oldest first; none where the folder does not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    found = [_described(path) for path in folder.iterdir() if _kind(path)]
    return sorted((each for each in found if each is not None), key=lambda each: -each.age)


def prune_store(files: Iterable[StoredFile]) -> tuple[list[StoredFile], list[StoredFile]]:
    """Remove files, each with its lock; one that a process is working on stays.

    Returns:
        The files removed, and those that are in use.

    Raises:
        OSError: A file cannot be removed.
    """
    removed, used = [], []
    for file in files:
        lock = file.path.with_name(_key(file.path) + LOCK)
        try:
            with FileLock(lock, blocking=False):
                file.path.unlink(missing_ok=True)
                if not any(lock.with_suffix(suffix).exists() for suffix in (RESULT, CHECKPOINT)):
                    lock.unlink(missing_ok=True)
            removed.append(file)
        except Timeout:
            used.append(file)
    return removed, used


def _described(path: Path) -> StoredFile | None:
    try:
        status = path.stat()
    except FileNotFoundError:  # another process has just finished with it
        return None
    age = max(0.0, time.time() - status.st_mtime)
    return StoredFile(path, _stage(path), _kind(path), status.st_size, age)


def _kind(path: Path) -> str:
    if path.name.startswith(".") and path.suffix == PART:
        return "half written"
    return {RESULT: "result", CHECKPOINT: "checkpoint"}.get(path.suffix, "")


def _key(path: Path) -> str:
    return path.name.lstrip(".").partition(".")[0]


def _stage(path: Path) -> str:
    """The stage's name, from the JSON header that a safetensors file begins with."""
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > _LONGEST_HEADER:
                return "unreadable"
            return str(json.loads(file.read(length))["__metadata__"]["stage"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return "unreadable"


VARIABLE: Final = "SERIESQUANT_CACHE"
RESULT: Final = ".safetensors"
CHECKPOINT: Final = ".checkpoint"
LOCK: Final = ".lock"


def store_folder(chosen: Path | None = None) -> Path:
    """The folder chosen, or the one that ``SERIESQUANT_CACHE`` names, or the platform's for a user's caches."""
    if chosen is not None:
        return chosen
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("seriesquant", appauthor=False))
