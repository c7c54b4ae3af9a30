"""One tracker that works behind the run's back: nothing but the end waits for it, and that not for long."""

import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import Any

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
        kind: A name in ``pipeline.options.registry.TRACKERS``.
        place: A tracking URI or a folder; empty for the tracker's own default.
        environment: Variables that its process has besides those of this one.
    """

    kind: str
    place: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """What messages call it: without the password that a URI may have."""
        return f"{self.kind} at {hide_password(self.place)}" if self.place else self.kind


# The module path is handed over as it is: the tracker's process finds what this one finds, whatever its folder.
_CODE = (
    "import sys; sys.path[:] = sys.argv[4:]; from pipeline.tracking.served import serve; "
    "serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)


class TrackerError(Exception):
    """A tracker refused, failed, or gave no answer; never more than a warning to the run."""


class TrackerProcess:
    """One tracker in a process of its own, which ends with the run.

    Args:
        kind: Which backend.
        environment: Variables that it has besides those of this process.
        heard: Called whenever it has done something.
    """

    def __init__(self, kind: str, environment: Mapping[str, str], heard: Callable[[], None]) -> None:
        """Start it; this takes milliseconds, because it loads nothing yet."""
        self._connection, theirs = Pipe()
        self._heard = heard
        with theirs:
            words = [sys.executable, "-P", "-c", _CODE, kind, str(theirs.fileno()), str(os.getpid()), *sys.path]
            self._process = subprocess.Popen(
                words,
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Ask for one thing and wait until it is done.

        Args:
            request: ``do`` names a function of ``pipeline.tracking.backends.Backend``; the rest are its arguments.
            seconds: How long to wait; None waits as long as the tracker's own rules for retries do.

        Raises:
            TrackerError: It could not be done, or there was no answer in time.
        """
        until = None if seconds is None else time.monotonic() + seconds
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            while self._connection.poll(None if until is None else max(0.0, until - time.monotonic())):
                answer = json.loads(self._connection.recv_bytes())
                self._heard()
                if "error" in answer:
                    raise TrackerError(answer["error"])
                if "result" in answer:
                    return answer["result"]
        except (EOFError, OSError):
            raise TrackerError("its process ended unexpectedly") from None
        raise TrackerError(f"no answer within {seconds:g} s")

    def kill(self) -> None:
        """End it at once; a thread that waits for its answer is told that it ended."""
        self._process.kill()

    def close(self) -> None:
        """Hang up, and see that it is gone."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


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
