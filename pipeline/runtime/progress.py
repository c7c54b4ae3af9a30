"""Progress of long work: bars on a terminal, plain lines elsewhere, nothing in a library."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from pipeline.errors import OptionsError

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars

Advance = Callable[[int, str], None]
SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """Receives the progress of the pipeline's stages."""

    def stage(self, name: str) -> None:
        """Report that a stage begins."""

    def result(self, text: str) -> None:
        """Report figures of a finished stage, such as a Top-1."""

    def state(self, task: "Task") -> None:
        """Report the state of a task of another process."""

    def track(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Follow a task of ``total`` steps.

        Returns:
            A context; call its value with the number of steps just done and a short status.
        """


class SilentProgress:
    """Discards everything: for use from Python."""

    def stage(self, name: str) -> None:
        """Do nothing."""

    def result(self, text: str) -> None:
        """Do nothing."""

    def state(self, task: "Task") -> None:
        """Do nothing."""

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Follow a task silently."""
        yield lambda steps, status: None


def checked_progress(value: object) -> Progress:
    """Return an object that shows progress; None selects one that shows nothing.

    Raises:
        OptionsError: It is a class, or lacks a method that is not optional.
    """
    if value is None:
        return SilentProgress()
    if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in ("stage", "track")):
        raise OptionsError(f"progress: got {value!r}; allowed: an object with methods stage and track, or None")
    return cast(Progress, value)


@dataclass(frozen=True)
class Task:
    """The state of a task.

    Attributes:
        description: The task's title.
        done: Steps done.
        total: Steps in all.
        status: The last status, such as a loss.
        seconds: Seconds since the task began.
        ended: True after its last step.
    """

    description: str
    done: int
    total: int
    status: str
    seconds: float
    ended: bool


class Lines(Protocol):
    """Formats progress as lines of text."""

    def stage(self, name: str) -> str:
        """Format the begin of a stage."""

    def result(self, text: str) -> str:
        """Format the figures of a finished stage."""

    def task(self, task: Task) -> str:
        """Format the state of a task."""


class PlainLines:
    """Formats progress for people."""

    def stage(self, name: str) -> str:
        """Return the stage's name."""
        return name

    def result(self, text: str) -> str:
        """Return the figures unchanged."""
        return text

    def task(self, task: Task) -> str:
        """Return the state in words, see ``task_text``."""
        return task_text(task)


class LineProgress:
    """Writes lines: at most one every few seconds while a task runs, and one when it ends.

    Args:
        stream: Destination of the lines.
        clock: Monotonic seconds.
        lines: Format of the lines; ``PlainLines`` by default.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic, lines: Lines | None = None) -> None:
        self._stream, self._clock, self._lines = stream, clock, lines or PlainLines()

    def stage(self, name: str) -> None:
        """Write a line that a stage begins."""
        self._write(self._lines.stage(name))

    def result(self, text: str) -> None:
        """Write a line of figures."""
        self._write(self._lines.result(text))

    def state(self, task: Task) -> None:
        """Write a line of a task's state."""
        self._write(self._lines.task(task))

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Write the state of the task every few seconds, and once at its end."""
        start = last_line = self._clock()
        done, last_status = 0, ""

        def write(now: float, ended: bool) -> None:
            self._write(self._lines.task(Task(description, done, total, last_status, now - start, ended)))

        def advance(steps: int, status: str) -> None:
            nonlocal done, last_line, last_status
            done, last_status = done + steps, status
            now = self._clock()
            if now - last_line >= SECONDS_BETWEEN_LINES and done < total:
                last_line = now
                write(now, False)

        yield advance
        write(self._clock(), True)

    def _write(self, line: str) -> None:
        with suppress(OSError):  # a log whose reader or disk is gone must not end the run
            self._stream.write(f"{line}\n")
            self._stream.flush()


class BarProgress:
    """Draws bars with the time left; a finished task leaves one line behind.

    Args:
        stream: A terminal.
        clock: Monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars, self._clock, self._running = _rich_bars(stream), clock, 0

    def stage(self, name: str) -> None:
        """Print the stage's name, above any bars."""
        self._print(name)

    def result(self, text: str) -> None:
        """Print figures, above any bars."""
        self._print(text)

    def state(self, task: Task) -> None:
        """Print a task's state, above any bars."""
        self._print(task_text(task))

    @contextmanager
    def track(self, description: str, total: int) -> Generator[Advance]:
        """Draw a bar for a task; tasks may be nested."""
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
            self._print(task_text(Task(description, done, total, last_status, self._clock() - start, True)))
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


def make_progress(stream: TextIO, lines: Lines | None = None) -> Progress:
    """Choose the progress by its destination: bars on a terminal, lines in a file, a pipe or a dumb terminal.

    Args:
        stream: Destination.
        lines: A format for programs, which is then used on a terminal too.
    """
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    if lines is None and stream.isatty() and not dumb:
        return BarProgress(stream)
    return LineProgress(stream, lines=lines)


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


def task_text(task: Task) -> str:
    """Return the state of a task in words: ``fine-tune: 5/100, 1 min 35 s left, loss 4``."""
    when = f"took {_duration(task.seconds)}" if task.ended else f"{_left(task)} left"
    return f"{task.description}: {task.done}/{task.total}, {when}" + (f", {task.status}" if task.status else "")


def _left(task: Task) -> str:
    return _duration(task.seconds / task.done * (task.total - task.done)) if task.done else "unknown"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
