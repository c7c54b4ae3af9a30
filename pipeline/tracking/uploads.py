"""How far an upload is, as seen in the bytes that leave this process: a slow server is not one that is down."""

import sys
import time
from collections.abc import Callable

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
