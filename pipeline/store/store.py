"""Stages that run once: each result is a file under a key made of the stage's inputs."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.runtime.processes import ALONE, Processes
from pipeline.store.entry import Entry, read_entry, to_bytes
from pipeline.store.housekeeping import CHECKPOINT, LOCK, RESULT
from pipeline.store.locks import locked
from reports.files import PART, write_atomically

logger = logging.getLogger(__name__)

# Counted up whenever the same inputs give something else.
FORMAT: Final = 5


@dataclass(frozen=True)
class StageKey:
    """A stage of a run: what messages call it, and the key of its result."""

    name: str
    key: str


@dataclass(frozen=True)
class StageRecord:
    """A stage that is done: whether its result was in the store already.

    ``seconds`` is what making it took, now or then.
    """

    name: str
    key: str
    cached: bool
    seconds: float


@dataclass
class Store:
    """A run's view of the store.

    Reading and writing are safe beside other processes: a result appears whole or not at all, and while one process
    makes it, others that need it wait. Of several processes of one run, the main one alone reads, locks and writes, and
    all get what it has. A store that cannot be written costs time later, so it only warns.

    Attributes:
        folder: Where the files are; made when the first is written.
        conditions: What every result depends on: the versions of the libraries, the device.
        fresh: Make every result anew, once, and replace what earlier runs left.
        lock_timeout: Seconds to wait for a result that another run makes.
        processes: Those of the run, which ask for the same results in the same order.
        stages: What was asked for, in order.
    """

    folder: Path
    conditions: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    lock_timeout: float = 3600.0
    processes: Processes = ALONE
    stages: list[StageRecord] = field(default_factory=list)
    _made: set[str] = field(default_factory=set)

    def key(self, stage: str, **inputs: object) -> str:
        """The name of what a stage makes of these inputs here.

        Args:
            stage: The kind of the stage.
            inputs: Name -> whatever its result depends on, as JSON can hold it.
        """
        return store_key(format=FORMAT, stage=stage, conditions=self.conditions, inputs=inputs)

    def once(self, step: StageKey, make: Callable[[], Entry]) -> Entry:
        """Give the stored result, or make it and store it.

        Args:
            step: The stage; its key is from ``key``.
            make: Computes the result, in all processes of the run.

        Raises:
            BusyError: Another run makes it, and did not end within ``lock_timeout``.
        """
        entry, cached = self.find(step.key), True
        if entry is None:
            with self._lock(step):
                entry = self.find(step.key)
                if entry is None:
                    entry, cached = self._make(step, make), False
        self.stages.append(StageRecord(step.name, step.key, cached, entry.seconds))
        return entry

    def find(self, key: str) -> Entry | None:
        """What is stored under a key; None where there is nothing, nothing readable, or nothing that is wanted."""
        if self.fresh and key not in self._made:
            return None
        return self._read(key, RESULT)

    def state(self, step: StageKey) -> Literal["stored", "begun", "to do"]:
        """What ``once`` would find: a result, a checkpoint, or nothing; as far as can be said without reading it."""
        if self.fresh:
            return "to do"
        if self._path(step.key, RESULT).is_file():
            return "stored"
        return "begun" if self._path(step.key, CHECKPOINT).is_file() else "to do"

    def checkpoint(self, step: StageKey) -> "CheckpointFile":
        """Where a stage under way keeps what it has so far, while the process holds the key's lock."""
        return CheckpointFile(self, step)

    def _make(self, step: StageKey, make: Callable[[], Entry]) -> Entry:
        if self.fresh:
            self._remove(step.key, CHECKPOINT)
        started = time.monotonic()
        made = self.processes.broadcast(make())
        entry = replace(made, seconds=round(made.seconds or time.monotonic() - started, 3))
        if self.processes.on_main(lambda: self._write(step.key, RESULT, step.name, entry)):
            self._made.add(step.key)
            self._remove(step.key, CHECKPOINT)
        return entry

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key}{suffix}"

    def _read(self, key: str, suffix: str) -> Entry | None:
        return self.processes.on_main(lambda: self._read_file(self._path(key, suffix)))

    def _read_file(self, path: Path) -> Entry | None:
        if not path.is_file():
            return None
        try:
            return read_entry(path)
        except (OSError, ValueError) as error:
            logger.warning("stored result %s cannot be read and is made again: %s", path, error)
            return None

    def _write(self, key: str, suffix: str, name: str, entry: Entry) -> bool:
        try:
            write_atomically(self._path(key, suffix), to_bytes(entry, name))
        except OSError as error:
            logger.warning("%s is not stored: %s", name, error)
            return False
        return True

    def _remove(self, key: str, suffix: str) -> None:
        try:
            if self.processes.is_main:
                self._path(key, suffix).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s is not removed: %s", self._path(key, suffix), error)

    @contextmanager
    def _lock(self, step: StageKey) -> Generator[None]:
        """Hold the key's lock and clear away what a killed holder left half written; without a folder, hold nothing."""
        with ExitStack() as held:
            with self.processes.together():
                if self.processes.is_main:
                    self._acquire(step, held)
            yield

    def _acquire(self, step: StageKey, held: ExitStack) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(self._path(step.key, LOCK), f"the stage {step.name!r}", self.lock_timeout))
            for part in self.folder.glob(f".{step.key}*{PART}"):
                part.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the store %s cannot be used: %s", self.folder, error)


@dataclass(frozen=True)
class CheckpointFile:
    """The state of one stage under way; removed when its result is stored."""

    store: Store
    step: StageKey

    def read(self) -> Entry | None:
        """What was saved last, by this run or one before; None where there is nothing."""
        return self.store._read(self.step.key, CHECKPOINT)

    def save(self, entry: Entry) -> None:
        """Replace what was saved last; a store that cannot be written only warns."""
        if self.store.processes.is_main:  # whenever that one wants to, so the others are not asked
            self.store._write(self.step.key, CHECKPOINT, self.step.name, entry)


def store_key(**inputs: object) -> str:
    """The name of what these inputs give: 32 hexadecimal digits of their SHA-256.

    Args:
        inputs: Name -> what JSON knows.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
