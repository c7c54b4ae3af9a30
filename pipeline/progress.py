"""How far long work is: bars on a terminal, plain lines elsewhere, nothing in a library."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars

Advance = Callable[[int, str], None]
SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """What a stage of the pipeline tells about its work."""

    def stage(self, name: str) -> None:
        """Say that a stage begins."""

    def track(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Follow a task of ``total`` steps; call the result with the steps just done and a short status."""


class SilentProgress:
    """Says nothing: for use from Python."""

    def stage(self, name: str) -> None:
        """Say nothing."""

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Follow a task without a word."""
        yield lambda steps, status: None


class PlainProgress:
    """Writes lines: at most one every few seconds while a task runs, and one when it ends.

    Args:
        stream: Where the lines go.
        clock: Seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Write nothing yet."""
        self._stream, self._clock = stream, clock

    def stage(self, name: str) -> None:
        """Write the stage's name."""
        self._write(name)

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Write done/total, time left and status every few seconds, and the time taken at the end."""
        start = last_line = self._clock()
        done, last_status = 0, ""

        def advance(steps: int, status: str) -> None:
            nonlocal done, last_line, last_status
            done, last_status = done + steps, status
            now = self._clock()
            if now - last_line >= SECONDS_BETWEEN_LINES and done < total:
                last_line = now
                left = _duration((now - start) / done * (total - done)) if done else "unknown"
                self._write(_line(description, done, total, f"{left} left", status))

        yield advance
        self._write(_line(description, done, total, f"took {_duration(self._clock() - start)}", last_status))

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class BarProgress:
    """Draws bars with the time left; a finished task leaves one line behind.

    Args:
        stream: A terminal.
        clock: Seconds, monotonic.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw nothing yet."""
        self._bars, self._clock, self._running = _rich_bars(stream), clock, 0

    def stage(self, name: str) -> None:
        """Print the stage's name, above the bars if there are any."""
        self._print(name)

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Draw a bar; tasks may be nested."""
        start, last_status = self._clock(), ""
        task = self._bars.add_task(description, total=total, status="")

        def advance(steps: int, status: str) -> None:
            nonlocal last_status
            last_status = status
            self._bars.update(task, advance=steps, status=status)

        self._enter()
        try:
            yield advance
            done = int(self._bars.tasks[self._bars.task_ids.index(task)].completed)
            self._print(_line(description, done, total, f"took {_duration(self._clock() - start)}", last_status))
        finally:
            self._bars.remove_task(task)
            self._leave()

    def _enter(self) -> None:
        if self._running == 0:
            self._bars.start()
        self._running += 1

    def _leave(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._bars.stop()

    def _print(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)


def make_progress(stream: TextIO) -> Progress:
    """Choose by where the words go: bars on a terminal, lines in a file, a pipe or a dumb terminal."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return BarProgress(stream) if stream.isatty() and not dumb else PlainProgress(stream)


def _rich_bars(stream: TextIO) -> "RichBars":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichBars

    return RichBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,
    )


def _line(description: str, done: int, total: int, when: str, status: str) -> str:
    return f"{description}: {done}/{total}, {when}" + (f", {status}" if status else "")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
