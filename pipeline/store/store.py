"""Run each stage once: its result is a file whose name is a hash of the stage's inputs."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pipeline.runtime.environment import peak_memory_mb
from pipeline.runtime.locks import locked
from pipeline.runtime.processes import ALONE, Processes
from pipeline.store.entry import Entry, read_entry, to_bytes
from pipeline.store.housekeeping import CHECKPOINT, LOCK, RESULT, is_stored
from reports.files import PART, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageKey:
    """The name of a stage, for messages, and the cache key of its result."""

    name: str
    key: str


@dataclass(frozen=True)
class StageRecord:
    """A finished stage.

    Attributes:
        name: See ``StageKey``.
        key: See ``StageKey``.
        cached: True if the result was read from the store.
        seconds: Time that the computation took, in this run or in the run that stored the result.
        peak_memory_mb: Largest memory of the process by the end of the computation, in 10^6 bytes; None if unknown.
    """

    name: str
    key: str
    cached: bool
    seconds: float
    peak_memory_mb: float | None = None


@dataclass
class Store:
    """The store as one run uses it.

    A file appears whole or not at all. While one process computes a result, other processes that need it wait for its
    lock. With several ranks, rank 0 alone reads, locks and writes, and broadcasts the entry. A store that cannot be
    written costs time in later runs only, so the run logs a warning and continues.

    Attributes:
        folder: Folder of the files; created with the first file.
        environment: Everything outside a stage's inputs that can change its result: see
            ``pipeline.stages.context.cache_environment``.
        fresh: Compute every result once more and replace stored ones.
        lock_timeout: Seconds to wait for a result that another run computes.
        processes: The ranks of the run; all of them call ``once`` with the same stages in the same order.
        stages: The finished stages, in order, each once.
    """

    folder: Path
    environment: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    lock_timeout: float = 3600.0
    processes: Processes = ALONE
    stages: list[StageRecord] = field(default_factory=list)
    _made: set[str] = field(default_factory=set)
    _unstored: set[str] = field(default_factory=set)

    def key(self, stage: str, **inputs: object) -> str:
        """Return the cache key of a stage's result: 32 hexadecimal digits.

        Args:
            stage: The kind of the stage.
            inputs: Name -> value that JSON can hold; everything that the result depends on.
        """
        return store_key(stage=stage, environment=self.environment, inputs=inputs)

    def once(self, stage: StageKey, compute: Callable[[], Entry]) -> tuple[Entry, bool]:
        """Return the stored result, or compute and store it.

        Args:
            stage: The stage; its key is from ``key``.
            compute: Computes the result, on all ranks.

        Returns:
            The result, the same on all ranks, and True if it was read from the store.

        Raises:
            BusyError: Another run computes the same result and did not finish within ``lock_timeout``.
        """
        entry, cached = self.find(stage.key), True
        if entry is not None:
            self._remove_leftover_checkpoint(stage.key)
        else:
            with self._lock(stage):
                entry = self.find(stage.key)
                if entry is None:
                    entry, cached = self._compute(stage, compute), False
        if all(record.key != stage.key for record in self.stages):  # a run may need a result again
            self.stages.append(StageRecord(stage.name, stage.key, cached, entry.seconds, entry.peak_memory_mb or None))
        return entry, cached

    def find(self, key: str) -> Entry | None:
        """Return a stored result; None if there is none, if it is damaged, or if ``fresh`` replaces it."""
        if self.fresh and key not in self._made:
            return None
        return self.read(key, RESULT)

    def state(self, stage: StageKey) -> Literal["stored", "begun", "to do"]:
        """Return what ``once`` would find: a result, a checkpoint or nothing. No file is read."""
        if self.fresh:
            return "to do"
        if is_stored(self._path(stage.key, RESULT)):
            return "stored"
        return "begun" if is_stored(self._path(stage.key, CHECKPOINT)) else "to do"

    def checkpoint(self, stage: StageKey) -> "CheckpointFile":
        """Return the checkpoint of a stage under way; used only inside ``once``, which holds the stage's lock."""
        return CheckpointFile(self, stage)

    def forget(self, stage: StageKey) -> None:
        """Remove the stored result of a stage, so that a later run computes it again."""
        self._remove(stage.key, RESULT)

    def read(self, key: str, suffix: str) -> Entry | None:
        """Read a file of the store on rank 0 and broadcast it; None if it is missing or damaged."""
        return self.processes.on_main(lambda: _read_file(self._path(key, suffix)))

    def write(self, stage: StageKey, suffix: str, entry: Entry) -> bool:
        """Write a file of the store; return False if that fails, with one warning for each stage."""
        try:
            write_atomically(self._path(stage.key, suffix), to_bytes(entry, stage.name))
        except OSError as error:
            if stage.name not in self._unstored:
                logger.warning("%s is not stored: %s", stage.name, error)
            self._unstored.add(stage.name)
            return False
        return True

    def _compute(self, stage: StageKey, compute: Callable[[], Entry]) -> Entry:
        if self.fresh:
            self._remove(stage.key, CHECKPOINT)
        started = time.monotonic()
        made = self.processes.broadcast(compute())
        seconds, peak = made.seconds or time.monotonic() - started, peak_memory_mb() or 0.0
        entry = replace(made, seconds=round(seconds, 3), peak_memory_mb=peak)
        if self.processes.on_main(lambda: self.write(stage, RESULT, entry)):
            self._made.add(stage.key)
            self._remove(stage.key, CHECKPOINT)
        return entry

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key}{suffix}"

    def _remove(self, key: str, suffix: str) -> None:
        try:
            if self.processes.is_main:
                self._path(key, suffix).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s is not removed: %s", self._path(key, suffix), error)

    def _remove_leftover_checkpoint(self, key: str) -> None:
        """Remove the checkpoint of a process that was killed after it had stored the result.

        A checkpoint whose lock is held belongs to a process that computes the result once more with ``fresh``.
        """
        if not self.processes.is_main or not is_stored(self._path(key, CHECKPOINT)):
            return
        with suppress(Timeout, OSError), FileLock(self._path(key, LOCK), blocking=False):
            self._path(key, CHECKPOINT).unlink(missing_ok=True)

    @contextmanager
    def _lock(self, stage: StageKey) -> Generator[None]:
        """Hold a stage's lock on rank 0 and remove files that a killed holder left incomplete."""
        with ExitStack() as held:
            with self.processes.together():
                if self.processes.is_main:
                    self._acquire(stage, held)
            yield

    def _acquire(self, stage: StageKey, held: ExitStack) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(self._path(stage.key, LOCK), f"the stage {stage.name!r}", self.lock_timeout))
            for part in self.folder.glob(f".{stage.key}*{PART}"):
                part.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the store %s cannot be used: %s", self.folder, error)


@dataclass(frozen=True)
class CheckpointFile:
    """The checkpoint of one stage under way; ``Store`` removes it when the stage's result is stored."""

    store: Store
    stage: StageKey

    def read(self) -> Entry | None:
        """Return the last checkpoint of this run or an earlier one; None if there is none."""
        return self.store.read(self.stage.key, CHECKPOINT)

    def save(self, entry: Entry) -> None:
        """Replace the checkpoint; a store that cannot be written is a warning."""
        if self.store.processes.is_main:  # without the other ranks: rank 0 saves at times of its own
            self.store.write(self.stage, CHECKPOINT, entry)


def store_key(**inputs: object) -> str:
    """Hash inputs to a cache key: the first 32 hexadecimal digits of the SHA-256 of their JSON.

    Args:
        inputs: Name -> value that JSON can hold.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _read_file(path: Path) -> Entry | None:
    if not is_stored(path):
        return None
    try:
        return read_entry(path)
    except (OSError, ValueError) as error:
        logger.warning("stored result %s cannot be read and is computed again: %s", path, error)
        return None
