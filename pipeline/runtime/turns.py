"""Exclusive access of one thread to the process: no other run computes while a network is traced.

``torch.export`` patches ``torch.nn.Module.__call__`` for the whole process while it traces. A network that another
thread calls meanwhile would end up in the graph, or return different outputs. A run therefore computes inside
``computing``; tracing waits in ``exclusive`` until every other run has yielded, which each does at every progress call.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from pipeline.runtime.progress import Advance, Progress, Task, task_text


class Turns:
    """A lock that many threads share for computing, and that one thread can hold exclusively.

    Threads that wait for exclusive access go before threads that begin to compute.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing: set[int] = set()
        self._waiting = 0
        self._exclusive = False

    @property
    def waiting(self) -> int:
        """Return the number of threads that wait for exclusive access."""
        return self._waiting

    @contextmanager
    def computing(self) -> Generator[None]:
        """Compute in this thread, side by side with other threads."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def released(self) -> Generator[None]:
        """Release this thread's turn, for example while it waits for a lock that another run holds."""
        computed = self._leave()
        try:
            yield
        finally:
            if computed:
                self._enter()

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Block until no other thread is computing, then hold the process exclusively."""
        with self.released():
            with self._changed:
                self._waiting += 1
                try:
                    self._changed.wait_for(lambda: not self._computing and not self._exclusive)
                    self._exclusive = True
                finally:
                    self._waiting -= 1
                    self._changed.notify_all()
            try:
                yield
            finally:
                with self._changed:
                    self._exclusive = False
                    self._changed.notify_all()

    def yield_to_exclusive(self) -> None:
        """Let threads that wait for exclusive access go first; return at once if there are none."""
        if self._waiting:
            with self.released():
                pass

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive and not self._waiting)
            self._computing.add(threading.get_ident())

    def _leave(self) -> bool:
        """Stop computing; return True if this thread was computing."""
        with self._changed:
            computed = threading.get_ident() in self._computing
            self._computing.discard(threading.get_ident())
            self._changed.notify_all()
        return computed


TURNS = Turns()
"""The lock of this process, because torch patches process-wide state."""


class YieldingProgress:
    """Progress that lets a waiting exclusive thread go first at every call.

    Args:
        progress: The progress that it forwards to. Without ``result`` or ``state``, its ``stage`` gets their text.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def stage(self, name: str) -> None:
        """Yield, and report that a stage begins."""
        TURNS.yield_to_exclusive()
        self._progress.stage(name)

    def result(self, text: str) -> None:
        """Yield, and report figures."""
        TURNS.yield_to_exclusive()
        getattr(self._progress, "result", self._progress.stage)(text)

    def state(self, task: Task) -> None:
        """Yield, and report the state of a task of another process."""
        TURNS.yield_to_exclusive()
        if hasattr(self._progress, "state"):
            self._progress.state(task)
        else:
            self._progress.stage(task_text(task))

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Follow a task; yield after each of its steps."""
        with self._progress.track(description, total) as forward:

            def advance(steps: int, status: str) -> None:
                forward(steps, status)
                TURNS.yield_to_exclusive()

            yield advance
