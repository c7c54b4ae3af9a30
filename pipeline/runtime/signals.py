"""Stopping a run by a signal: training stops between two steps, with a checkpoint; other work stops at once."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

# Orchestrators send SIGKILL some time after SIGTERM (Docker after 10 s), so a longer step is abandoned.
GRACE_SECONDS = 5.0


class Terminated(BaseException):
    """The process received SIGTERM."""


class HungUp(BaseException):
    """The process received SIGHUP: its terminal or its session closed."""


_REASONS: Final[dict[int, type[BaseException]]] = {
    signal.SIGTERM: Terminated,
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGHUP: HungUp,
}

_AWAITED: Final = () if sys.platform == "darwin" else (signal.SIGTERM,)
"""Signals that a thread of a worker process waits for, to learn the sender; macOS does not report it."""


class Interruption:
    """A pending stop request, and whether it must be deferred.

    A caller of the library may call ``request`` from another thread. The program connects it to signals, see
    ``on_signals``. This class changes no signal handler.
    """

    def __init__(self) -> None:
        self._reason: BaseException | None = None
        self._deferred = False

    def request(self, reason: BaseException | None = None) -> bool:
        """Request a stop.

        Args:
            reason: The exception that ``check`` raises; KeyboardInterrupt by default.

        Returns:
            True if the stop is deferred: the code that runs now calls ``check`` soon.
        """
        self._reason = reason or KeyboardInterrupt()
        return self._deferred

    @property
    def reason(self) -> BaseException | None:
        """The exception that ``check`` would raise now; None without a request."""
        return self._reason

    @property
    def requested(self) -> bool:
        """Return True if a stop was requested."""
        return self._reason is not None

    @property
    def is_deferred(self) -> bool:
        """Return True inside ``deferred``."""
        return self._deferred

    @contextmanager
    def deferred(self) -> Generator[None]:
        """Defer stop requests to the next ``check``, around code that must not be cut off halfway."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raise the reason of a pending stop request; return without one.

        Raises:
            BaseException: The reason, for example KeyboardInterrupt.
        """
        if self._reason is not None:
            raise self._reason


def ignore_signals() -> None:
    """Ignore SIGTERM, SIGHUP and Ctrl-C from now on: the process has only to exit."""
    for number in _REASONS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def starting_workers() -> Generator[None]:
    """Block SIGTERM while worker processes start, so that it is blocked in all of their threads.

    A library may start a thread in a worker before ``leave_signals_to_parent`` runs there. A SIGTERM to this process
    arrives after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """Ignore stop signals in a worker process, see ``starting_workers``; only SIGTERM from its parent ends it.

    Ctrl-C goes to all processes of a terminal, and a scheduler may send SIGTERM to all processes of a job. The parent
    then finishes its step, for which it needs its workers, and ends them.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if _AWAITED:
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        parent = multiprocessing.parent_process()  # the parent of the system may be a server that only forks
        sender = os.getppid() if parent is None else parent.pid
        threading.Thread(target=_end_on_signal_of, args=(sender,), daemon=True).start()


def _end_on_signal_of(parent: int | None) -> None:
    while signal.sigwaitinfo(_AWAITED).si_pid != parent:
        pass
    os._exit(0)


def signal_within(seconds: float) -> bool:
    """Wait for SIGTERM, SIGHUP or Ctrl-C; return True when one arrives, False after ``seconds`` without one."""
    try:
        with on_signals():
            time.sleep(seconds)
    except tuple(_REASONS.values()):
        return True
    return False


@contextmanager
def on_signals(grace_seconds: float = GRACE_SECONDS) -> Generator[Interruption]:
    """Turn SIGTERM, SIGHUP and Ctrl-C into stop requests, in the main thread; change nothing in other threads.

    Outside of ``Interruption.deferred`` they raise at once, so that files are closed and temporary files removed. A
    second signal raises inside it too, and so does code that stays in it for longer than ``grace_seconds``. An ignored
    signal, such as SIGHUP under ``nohup``, stays ignored.

    Args:
        grace_seconds: Seconds that deferred code may still run after a signal.

    Yields:
        The stop request that the signals set.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    owner = os.getpid()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker inherits this handler
            os._exit(128 + number)
        if number == signal.SIGALRM:
            if interruption.is_deferred:
                interruption.check()
            return
        repeated = interruption.requested
        deferred = interruption.request(_REASONS[number]())
        if repeated or not deferred:
            interruption.check()
        signal.setitimer(signal.ITIMER_REAL, grace_seconds)

    watched = [number for number in _REASONS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, on_signal) for number in (*watched, signal.SIGALRM)}
    try:
        yield interruption
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
