"""Serve the requests of a run in the tracker's own process, one at a time, as JSON over a socket.

    run -> tracker   {"method": "log", "values": {...}}   a method of ``Backend`` and its arguments
    tracker -> run   {"sent": 65536}                      upload progress in bytes, any number of times
                     {"result": ...} or {"error": TEXT}   the answer

If the run is killed, this process marks it as killed. It ends at most ``ORPHAN_SECONDS`` later.
"""

import json
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from pipeline.options.registry import TRACKERS
from pipeline.tracking.backends import Backend

ORPHAN_SECONDS: Final = 10.0
"""Longest life of this process after the end of the run's process."""
PROGRESS_SECONDS: Final = 0.5
"""Shortest time between two messages about the progress of uploads."""
_PARENT_POLL_SECONDS = 0.5
_LONGEST_ERROR = 300  # characters; an error becomes one line of the run's log
_HTTP_METHODS = (b"PUT ", b"POST ", b"PATCH ")


def serve(kind: str, descriptor: str, parent: str) -> None:
    """Answer requests until the run ends, then exit this process.

    Args:
        kind: A name in ``pipeline.options.registry.TRACKERS``.
        descriptor: File descriptor of the socket to the run, in decimal digits.
        parent: Process id of the run, in decimal digits.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run handles them and ends this process
        signal.signal(number, signal.SIG_IGN)
    channel = _Channel(int(descriptor))
    threading.Thread(target=_exit_after, args=(int(parent), channel), daemon=True).start()
    _answer_requests(kind, channel)
    os._exit(0)  # exit handlers of the libraries may block on a server that is down


def _answer_requests(kind: str, channel: "_Channel") -> None:
    uploads = UploadProgress(lambda sent: channel.send({"sent": sent}))
    uploads.watch()
    backend: Backend | None = None
    try:
        while True:
            request = channel.receive()
            if backend is None:
                backend = TRACKERS[kind].load()(request.pop("place"))
            uploads.reset()
            channel.send(_answer(backend, **request))
            if request["method"] == "end":
                return
    except (EOFError, OSError):  # the run's process has ended
        if backend is not None:
            _answer(backend, "end", status="KILLED")


def _answer(backend: Backend, method: str, **arguments: Any) -> dict[str, Any]:
    try:
        return {"result": getattr(backend, method)(**arguments)}
    except Exception as error:  # any error of a tracker's libraries must fail the tracker only, never the run
        return {"error": _one_line(error)}


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return textwrap.shorten(text, _LONGEST_ERROR, placeholder=" ...") or type(error).__name__


def _exit_after(parent: int, channel: "_Channel") -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    channel.shut_down()
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


class _Channel:
    """JSON messages over the socket; ``send`` is safe to call from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._connection, self._lock = Connection(descriptor), threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return message

    def shut_down(self) -> None:
        """End a blocked ``receive`` with EOFError, even if workers of the run still hold the other end open."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)


class UploadProgress:
    """Report the progress of HTTP uploads.

    Progress is reported only if more bytes of a request were sent than in any earlier attempt at it. Retries that
    always fail at the same place are therefore no progress.

    Args:
        report: Called with the bytes sent so far, at most once every ``PROGRESS_SECONDS``, in the sending thread.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._reported = 0.0
        self.reset()

    def reset(self) -> None:
        """Start counting for a new request; not to be called between attempts at one request."""
        self._sent = self._most = 0

    def watch(self) -> None:
        """Count all that this process sends from now on, by Python's audit event ``http.client.send``."""

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "http.client.send" and isinstance(data := arguments[1], bytes | bytearray | memoryview):
                self.before_send(bytes(data[:8]), len(data))

        sys.addaudithook(hook)

    def before_send(self, head: bytes, size: int) -> None:
        """Count the blocks before this one as sent.

        Args:
            head: First bytes of the block; an HTTP method in them marks the start of an attempt.
            size: Size of the block in bytes.
        """
        if head.startswith(_HTTP_METHODS):
            self._sent = 0
        if self._sent > self._most:
            self._most = self._sent
            if time.monotonic() - self._reported >= PROGRESS_SECONDS:
                self._reported = time.monotonic()
                self._report(self._most)
        self._sent += size
