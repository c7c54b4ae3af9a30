"""Being asked to end: training ends between two steps, with a checkpoint; anything else where it stands."""

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
# An orchestrator sends SIGKILL some time after SIGTERM (Docker after 10 s): a step that takes longer is given up.
GRACE_SECONDS = 5.0


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


class Interruption:
    """Whether somebody asked to end, and whether this is a moment at which that can be done at once.

    A caller of the library may call ``request`` from another thread; the program lets signals do it, see
    ``on_signals``. Nothing here touches the process's signal handlers.
    """

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._wanted: BaseException | None = None
        self._busy = False

    def request(self, reason: BaseException | None = None) -> bool:
        """Ask to end.

        Args:
            reason: What ``check`` raises; KeyboardInterrupt by default.

        Returns:
            Whether a training step is under way, which ``check`` follows soon.
        """
        self._wanted = reason or KeyboardInterrupt()
        return self._busy

    @property
    def reason(self) -> BaseException | None:
        """What ``check`` would raise now."""
        return self._wanted

    @property
    def requested(self) -> bool:
        """Whether somebody asked to end."""
        return self._wanted is not None

    @property
    def is_deferred(self) -> bool:
        """Whether a step is under way."""
        return self._busy

    @contextmanager
    def deferred(self) -> Generator[None]:
        """Mark a stretch of code that leaves something half changed when it is broken off."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def check(self) -> None:
        """End here if somebody asked for it.

        Raises:
            BaseException: The reason that was given, for example KeyboardInterrupt.
        """
        if self._wanted is not None:
            raise self._wanted


def ignore_signals() -> None:
    """Let SIGTERM and Ctrl-C do nothing from now on: for a process that has only to exit."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def on_signals() -> Generator[Interruption]:
    """Turn SIGTERM and Ctrl-C into requests to end, in the main thread; elsewhere change nothing.

    Outside of training steps they raise at once, so that files are closed and temporary ones removed. A second one, or
    a step that takes longer than ``GRACE_SECONDS``, does so in training too.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    owner = os.getpid()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that was forked from us
            os._exit(128 + number)
        if number == signal.SIGALRM:
            if interruption.is_deferred:
                interruption.check()
            return
        again = interruption.requested
        busy = interruption.request(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        if again or not busy:
            interruption.check()
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    previous = {number: signal.signal(number, on_signal) for number in watched}
    try:
        yield interruption
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
