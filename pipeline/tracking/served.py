"""The tracker's own process: it does what the run asks for over a socket, one thing at a time.

It outlives a run that is killed by as long as it takes to mark it as such, and by ``LEFT_BEHIND`` seconds at most.
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
from typing import Any

from pipeline.options.registry import TRACKERS
from pipeline.tracking.backends import Backend

LEFT_BEHIND = 10.0
_LONGEST = 300  # characters of an error that become a warning


def serve(kind: str, descriptor: int, parent: int) -> None:
    """Answer requests until the run ends or is no longer there; then this process is over.

    Args:
        kind: Which backend.
        descriptor: The socket to the run.
        parent: The run's process.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run handles them, and ends this process
        signal.signal(number, signal.SIG_IGN)
    channel = _Channel(descriptor)
    threading.Thread(target=_leave_after, args=(parent, channel), daemon=True).start()
    _converse(kind, channel)
    os._exit(0)  # what the libraries would do at exit may wait for a server that is down


def _converse(kind: str, channel: "_Channel") -> None:
    uploads = UploadProgress(lambda sent: channel.send({"sent": sent}))
    uploads.listen()
    backend: Backend | None = None
    try:
        while True:
            request = channel.receive()
            if backend is None:
                backend = TRACKERS[kind].load()(request.pop("place"))
            uploads.begin()
            channel.send(_answer(backend, **request))
            if request["do"] == "end":
                return
    except (EOFError, OSError):  # the run is gone
        if backend is not None:
            _answer(backend, "end", status="KILLED")


def _answer(backend: Backend, do: str, **arguments: Any) -> dict[str, Any]:
    try:
        return {"result": getattr(backend, do)(**arguments)}
    except Exception as error:  # whatever a tracker's libraries raise is the tracker's failure, never the run's
        return {"error": _sentence(error)}


def _sentence(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return textwrap.shorten(words, _LONGEST, placeholder=" ...") or type(error).__name__


class _Channel:
    """JSON over the socket; messages may come from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._connection, self._lock = Connection(descriptor), threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return message

    def hang_up(self) -> None:
        """Let ``receive`` find the end, though workers of the run may still hold the other side open."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)


def _leave_after(parent: int, channel: _Channel) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    channel.hang_up()
    time.sleep(LEFT_BEHIND)
    os._exit(1)


SECONDS_BETWEEN = 0.5
_METHODS = (b"PUT ", b"POST ", b"PATCH ")


class UploadProgress:
    """Follows what is sent over HTTP, and tells when a request is further than any attempt at it was before.

    Args:
        tell: Called with the bytes sent so far, twice a second at most, from whichever thread sends them.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._told = 0.0
        self.begin()

    def begin(self) -> None:
        """Another request follows, whose bytes count anew; another attempt at the same one must not say so."""
        self._sent = self._most = 0

    def listen(self) -> None:
        """Follow all that this process sends from now on: Python's own audit events name every block."""

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "http.client.send" and isinstance(data := arguments[1], bytes | bytearray | memoryview):
                self.sending(bytes(data[:8]), len(data))

        sys.addaudithook(hook)

    def sending(self, head: bytes, size: int) -> None:
        """Take note of a block that is about to be sent, which says that those before it were.

        Args:
            head: Its first bytes; a method's name in them means that an attempt begins.
            size: Its bytes.
        """
        if head.startswith(_METHODS):
            self._sent = 0
        if self._sent > self._most:
            self._most = self._sent
            if time.monotonic() - self._told >= SECONDS_BETWEEN:
                self._told = time.monotonic()
                self._tell(self._most)
        self._sent += size
