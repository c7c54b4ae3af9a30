"""The run's end of a tracker's process: requests, answers, and how long to wait for them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from typing import Any

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
