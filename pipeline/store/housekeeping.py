"""List and remove the files of the store. Loads nothing heavy and reads no tensors."""

import json
import os
import re
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from filelock import FileLock, Timeout

from pipeline.errors import OptionsError
from pipeline.options.paths import expanded, parse_output_path
from reports.files import PART

VARIABLE: Final = "SERIESQUANT_CACHE"
"""Environment variable that names the folder of the store."""
RESULT: Final = ".safetensors"
CHECKPOINT: Final = ".checkpoint"
LOCK: Final = ".lock"
_LENGTH: Final = struct.Struct("<Q")
_LONGEST_HEADER: Final = 100_000_000
"""Bytes of the longest header that safetensors reads."""
_KEY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredFile:
    """A file of the store.

    Attributes:
        path: Path of the file.
        name: The name of its stage; ``unreadable`` if the header is damaged.
        kind: ``result``, ``checkpoint`` or ``half written``.
        size: Bytes.
        age: Seconds since the file was written.
    """

    path: Path
    name: str
    kind: str
    size: int
    age: float


def list_store(folder: Path) -> list[StoredFile]:
    """List the files of a store, the oldest first; none if the folder does not exist.

    Only files with the name of a cache key are the store's; others are safetensors files of the user's own.

    Raises:
        OSError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    found = [_described(path) for path in folder.iterdir() if _kind(path)]
    return sorted((each for each in found if each is not None), key=lambda each: -each.age)


def prune_store(files: Iterable[StoredFile]) -> tuple[list[StoredFile], list[StoredFile]]:
    """Remove files that no process is working on.

    Lock files stay: a process that waits for a removed lock file would hold a lock that no other process sees.

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
            removed.append(file)
        except Timeout:
            used.append(file)
    return removed, used


def _described(path: Path) -> StoredFile | None:
    try:
        status = path.stat()
    except FileNotFoundError:  # another process has removed it meanwhile
        return None
    age = max(0.0, time.time() - status.st_mtime)
    return StoredFile(path, _stage(path), _kind(path), status.st_size, age)


def _kind(path: Path) -> str:
    if not _KEY.fullmatch(_key(path)):
        return ""
    if path.name.startswith(".") and path.suffix == PART:
        return "half written"
    return {RESULT: "result", CHECKPOINT: "checkpoint"}.get(path.suffix, "")


def _key(path: Path) -> str:
    return path.name.lstrip(".").partition(".")[0]


def _stage(path: Path) -> str:
    """Read the stage's name from the JSON header at the beginning of a safetensors file."""
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > _LONGEST_HEADER:
                return "unreadable"
            return str(json.loads(file.read(length))["__metadata__"]["stage"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return "unreadable"


def is_stored(path: Path) -> bool:
    """Return True if a file of the store exists; False also if its folder cannot be searched."""
    try:
        return path.is_file()
    except OSError:
        return False


def existing_store(chosen: Path | None = None) -> Path:
    """Return the folder of ``store_folder``. Only the default one may be missing, which the first run makes.

    Raises:
        OptionsError: The chosen folder does not exist, or as in ``store_folder``.
    """
    folder = store_folder(chosen)
    if chosen is not None and not folder.exists():
        raise OptionsError(f"--cache-dir: the folder {folder} does not exist; allowed: the folder of a store")
    return folder


def store_folder(chosen: Path | None = None) -> Path:
    """Return the chosen folder, else ``SERIESQUANT_CACHE``, else the platform's folder; ``~`` is the home folder.

    Raises:
        OptionsError: It is a file, or an address.
    """
    source = VARIABLE if chosen is None else "--cache-dir"
    named = str(chosen) if chosen is not None else os.environ.get(VARIABLE)
    if not named:
        return Path(platformdirs.user_cache_dir("seriesquant", appauthor=False))
    folder = expanded(parse_output_path(source, named))
    with suppress(OSError):  # a folder that cannot be searched is the store's matter
        if folder.exists() and not folder.is_dir():
            raise OptionsError(f"{source}: {folder} is a file; allowed: the folder of a store")
    return folder
