"""Send a run's requests to one tracker in the background.

``BackgroundTracker`` queues the requests and sends them from a thread. ``TrackerProcess`` is the process that carries
them out, see ``served``. The run waits only at its end, and for a limited time.
"""

import json
import logging
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import Any, Final

from pipeline.runtime.child import child_command

logger = logging.getLogger(__name__)

REACH_SECONDS: Final = 33.0
"""Time limit for the first answer of a server, the lookup of its name included."""
LOAD_SECONDS: Final = 60.0
"""Time limit for importing the tracker's libraries on this machine."""
SILENT_SECONDS = 8.0
"""Longest wait at the run's end for a tracker without any progress; with the overhead it is less than 10 s."""
END: Final = "end"
"""The last request to a tracker."""


@dataclass(frozen=True)
class Destination:
    """A tracker and the place where it stores its data.

    Attributes:
        kind: A name in ``pipeline.options.registry.TRACKERS``.
        place: A tracking URI or a folder; empty for the tracker's own default.
        environment: Environment variables of its process, in addition to those of this process.
    """

    kind: str
    place: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return its name in messages, without the password of a URI."""
        return f"{self.kind} at {hide_password(self.place)}" if self.place else self.kind


def hide_password(text: str) -> str:
    """Remove user names and passwords from the URIs in a text.

    Example:
        >>> hide_password("http://me:secret@host:5000 is down")
        'http://host:5000 is down'
    """
    return re.sub(r"(?<=//)[^/@\s]*@", "", text)


class BackgroundTracker:
    """Send requests to one tracker, in order, from a thread.

    The first failure is logged as a warning. All later requests except ``end`` are then dropped, without a warning.

    Args:
        destination: The tracker.
    """

    def __init__(self, destination: Destination) -> None:
        """Start the thread, which starts the process."""
        self._destination, self._requests = destination, queue.SimpleQueue[dict[str, Any]]()
        self._failed = self._reached = self._loading = False
        self._progressed = time.monotonic()  # time of the last message from the process
        self._done = threading.Event()
        self._process: TrackerProcess | None = None
        threading.Thread(target=self._work, name=f"tracking with {destination.kind}", daemon=True).start()

    def call(self, method: str, **arguments: Any) -> None:
        """Queue a request. The first must be ``start`` and the last ``end``.

        Args:
            method: A method of ``pipeline.tracking.backends.Backend``.
            arguments: Its arguments, serializable as JSON.
        """
        self._requests.put({"method": method, **arguments})

    def wait(self, since: float, limit: float | None = None) -> None:
        """Wait until ``end`` is done; kill a tracker without progress for ``SILENT_SECONDS``.

        Args:
            since: The end of the run in ``time.monotonic()`` seconds. Several trackers share the time from there.
            limit: The longest wait in seconds, progress or not; None for no such limit.
        """
        while not self._done.wait(0.02):
            now = time.monotonic()
            if self._loading and limit is None:
                since = now  # imports are work of this machine and have ``LOAD_SECONDS`` as their limit
            # A tracker that never answered has already had its time during the run.
            begin = max(since, self._progressed) if self._reached else self._progressed
            if now - begin > SILENT_SECONDS or (limit is not None and now - since > limit):
                self._warn(f"no answer within {limit or SILENT_SECONDS:g} s")
                self._kill()
                return

    def _work(self) -> None:
        try:
            environment = self._destination.environment
            self._process = process = TrackerProcess(self._destination.kind, environment, self._note_progress)
            try:
                self._send_requests(process)
            finally:
                process.close()
        except (TrackerError, OSError) as error:
            self._warn(str(error))
        finally:
            self._done.set()

    def _send_requests(self, process: "TrackerProcess") -> None:
        process.request({"method": "reach", "place": self._destination.place}, REACH_SECONDS)
        self._reached = self._loading = True
        process.request({"method": "load"}, LOAD_SECONDS)
        self._loading = False
        page = process.request(self._requests.get())
        logger.info("%s: this run is %s", self._destination, hide_password(page))
        request: dict[str, Any] = {}
        while request.get("method") != END:
            request = self._requests.get()
            self._send(process, request)

    def _send(self, process: "TrackerProcess", request: dict[str, Any]) -> None:
        if self._failed and request["method"] != END:
            return
        try:
            process.request(request)
        except TrackerError as error:
            self._warn(str(error))

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._done.wait(1.0)

    def _note_progress(self) -> None:
        self._progressed = time.monotonic()

    def _warn(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("tracking with %s: %s; the run goes on without it", self._destination, hide_password(reason))


class TrackerError(Exception):
    """A request to a tracker failed or was not answered; the run only logs a warning."""


class TrackerProcess:
    """The process of one tracker, which ends with the run.

    Args:
        kind: A name in ``pipeline.options.registry.TRACKERS``.
        environment: Environment variables in addition to those of this process.
        on_message: Called after each message from the process.
    """

    def __init__(self, kind: str, environment: Mapping[str, str], on_message: Callable[[], None]) -> None:
        """Start the process. This takes milliseconds, because it imports the tracker's libraries only later."""
        self._connection, theirs = Pipe()
        self._on_message = on_message
        with theirs:
            command = child_command("pipeline.tracking.served:serve", kind, str(theirs.fileno()), str(os.getpid()))
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def request(self, request: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Send a request and return its result.

        Args:
            request: ``method`` is a method of ``pipeline.tracking.backends.Backend``; all other items are its
                arguments.
            seconds: Time limit; None for no limit besides the retries of the tracker's own client.

        Raises:
            TrackerError: The request failed, the process ended, or no result came in time.
        """
        until = None if seconds is None else time.monotonic() + seconds
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            while self._connection.poll(None if until is None else max(0.0, until - time.monotonic())):
                message = json.loads(self._connection.recv_bytes())
                self._on_message()
                if "error" in message:
                    raise TrackerError(message["error"])
                if "result" in message:
                    return message["result"]
        except (EOFError, OSError):
            raise TrackerError("its process ended unexpectedly") from None
        raise TrackerError(f"no answer within {seconds:g} s")

    def kill(self) -> None:
        """Kill the process; a pending ``request`` in another thread then raises ``TrackerError``."""
        self._process.kill()

    def close(self) -> None:
        """Close the connection, kill the process and wait for its end."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
