"""Turns between the runs of one process: all may compute at once, but while one traces a network no other computes.

``torch.export`` patches ``torch.nn.Module.__call__`` for the whole process while it traces, so that a network called in
another thread would end up in the graph, or give other figures. A run therefore computes within ``computing``; tracing
waits in ``alone`` until every other run has given way, which each does at every word of progress.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from pipeline.runtime.progress import Advance, Progress


class Turns:
    """Who computes, and who waits to be alone."""

    def __init__(self) -> None:
        """Nobody computes."""
        self._changed = threading.Condition()
        self._computing: set[int] = set()
        self._waiting = 0
        self._alone = False

    @contextmanager
    def computing(self) -> Generator[None]:
        """Compute in this thread, beside others that do."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def released(self) -> Generator[None]:
        """Do not compute for a while, where this thread did: for waiting for something that another run holds."""
        computed = self._leave()
        try:
            yield
        finally:
            if computed:
                self._enter()

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Have the process to this thread, as soon as every other one that computes has given way."""
        with self.released():
            with self._changed:
                self._waiting += 1
                try:
                    self._changed.wait_for(lambda: not self._computing and not self._alone)
                    self._alone = True
                finally:
                    self._waiting -= 1
                    self._changed.notify_all()
            try:
                yield
            finally:
                with self._changed:
                    self._alone = False
                    self._changed.notify_all()

    def yield_to_exclusive(self) -> None:
        """Let a thread that waits to be alone go first."""
        if self._waiting:
            with self.released():
                pass

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._computing.add(threading.get_ident())

    def _leave(self) -> bool:
        """Stop computing; whether this thread did."""
        with self._changed:
            computed = threading.get_ident() in self._computing
            self._computing.discard(threading.get_ident())
            self._changed.notify_all()
        return computed


TURNS = Turns()
"""Those of this process: what torch patches is the process's."""


class YieldingProgress:
    """Progress that gives way at every word.

    Args:
        progress: Where the words go.
    """

    def __init__(self, progress: Progress) -> None:
        """Say nothing yet."""
        self._progress = progress

    def stage(self, name: str) -> None:
        """Give way, and say that a stage begins."""
        TURNS.yield_to_exclusive()
        self._progress.stage(name)

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Follow a task; give way after each of its steps."""
        with self._progress.track(description, total) as told:

            def advance(steps: int, status: str) -> None:
                told(steps, status)
                TURNS.yield_to_exclusive()

            yield advance
