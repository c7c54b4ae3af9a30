"""One tracker that works behind the run's back: nothing but the end waits for it, and that not for long."""

import logging
import queue
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.tracking.process import TrackerError, TrackerProcess

logger = logging.getLogger(__name__)

REACH_SECONDS = 33.0  # a silent server's time for its first word, and that of a lookup of its name
LOAD_SECONDS = 60.0  # this machine's time to load the tracker's libraries
# The run's end waits no longer for a tracker that says nothing: with all that belongs to it, less than 10 s.
SILENT_SECONDS = 8.0
END = "end"


@dataclass(frozen=True)
class Target:
    """Which tracker, and where.

    Attributes:
        kind: A name of ``pipeline.tracking.backends.BACKENDS``.
        place: A tracking URI or a folder; empty for the tracker's own default.
        environment: Variables that its process has besides those of this one.
    """

    kind: str
    place: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """What messages call it: without the password that a URI may have."""
        return f"{self.kind} at {hide_password(self.place)}" if self.place else self.kind


class BackgroundTracker:
    """Calls are queued and made one after the other by a thread; the first that fails is a warning, and the last.

    Args:
        target: Which tracker, and where.
    """

    def __init__(self, target: Target) -> None:
        """Start its thread, which starts its process."""
        self._target, self._calls = target, queue.SimpleQueue[dict[str, Any]]()
        self._lost = self._reached = self._loading = False
        self._heard = time.monotonic()
        self._done = threading.Event()
        self._process: TrackerProcess | None = None
        threading.Thread(target=self._work, name=f"tracking with {target.kind}", daemon=True).start()

    def call(self, do: str, **arguments: Any) -> None:
        """Have something done when what was asked before is done; ``end`` is the last.

        Args:
            do: A function of ``pipeline.tracking.backends.Backend``.
            arguments: Its arguments, as JSON takes them.
        """
        self._calls.put({"do": do, **arguments})

    def wait(self, since: float, whole: float | None = None) -> None:
        """Wait until the end is told; give up a tracker that says nothing for ``SILENT_SECONDS``.

        Args:
            since: When the run came to its end, of ``time.monotonic()``: several trackers share the time.
            whole: The longest time in all, in seconds; None sets no limit but that.
        """
        while not self._done.wait(0.02):
            now = time.monotonic()
            if self._loading and whole is None:
                since = now  # our own work; it has its own limit
            # Whom nobody ever reached has had its time while the run went on.
            begin = max(since, self._heard) if self._reached else self._heard
            if now - begin > SILENT_SECONDS or (whole is not None and now - since > whole):
                self._warn(f"no answer within {whole or SILENT_SECONDS:g} s")
                self._kill()
                return

    def _work(self) -> None:
        try:
            self._process = process = TrackerProcess(self._target.kind, self._target.environment, self._hear)
            try:
                self._converse(process)
            finally:
                process.close()
        except (TrackerError, OSError) as error:
            self._warn(str(error))
        finally:
            self._done.set()

    def _converse(self, process: TrackerProcess) -> None:
        process.ask({"do": "reach", "place": self._target.place}, REACH_SECONDS)
        self._reached = self._loading = True
        process.ask({"do": "load"}, LOAD_SECONDS)
        self._loading = False
        where = process.ask(self._calls.get())
        logger.info("%s: this run is %s", self._target, hide_password(where))
        request: dict[str, Any] = {}
        while request.get("do") != END:
            request = self._calls.get()
            self._tell(process, request)

    def _tell(self, process: TrackerProcess, request: dict[str, Any]) -> None:
        if self._lost and request["do"] != END:
            return
        try:
            process.ask(request)
        except TrackerError as error:
            self._warn(str(error))

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._done.wait(1.0)

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def _warn(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            logger.warning("tracking with %s: %s; the run goes on without it", self._target, hide_password(reason))


def hide_password(text: str) -> str:
    """Text without the user and the password of the URIs in it.

    Example:
        >>> hide_password("http://me:secret@host:5000 is down")
        'http://host:5000 is down'
    """
    return re.sub(r"(?<=//)[^/@\s]*@", "", text)
