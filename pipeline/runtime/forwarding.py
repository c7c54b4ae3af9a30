"""Forward the progress and the log of a worker process to the driver, as lines of JSON that keep their kind."""

import json
import logging
from dataclasses import asdict

from pipeline.runtime.progress import Progress, Task


class ForwardedLines:
    """Formats a worker's progress for ``replay``."""

    def stage(self, name: str) -> str:
        """Return the line of a stage that begins."""
        return json.dumps({"stage": name})

    def result(self, text: str) -> str:
        """Return the line of a stage's figures."""
        return json.dumps({"result": text})

    def task(self, task: Task) -> str:
        """Return the line of a task's state."""
        return json.dumps({"task": asdict(task)})


class ForwardedLog(logging.Formatter):
    """Formats a worker's log records for ``replay``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record, with its traceback if there is one, as one line."""
        return json.dumps({"log": [record.name, record.levelno, super().format(record)]})


def replay(line: str, progress: Progress) -> None:
    """Report a worker's line in the driver, as the same kind of event.

    Args:
        line: A line of ``ForwardedLines`` or ``ForwardedLog``.
        progress: The driver's progress.
    """
    ((kind, content),) = json.loads(line).items()
    if kind == "log":
        name, level, text = content
        logging.getLogger(name).log(level, "%s", text)
    elif kind == "task":
        progress.state(Task(**content))
    elif kind == "result":
        progress.result(content)
    else:
        progress.stage(content)


class LineBoard:
    """Collects the lines of the workers for the driver.

    It runs as an actor of a cluster. The actor's process imports this module, which must not import PyTorch: that
    takes seconds.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def append(self, line: str) -> None:
        """Add a line."""
        self._lines.append(line)

    def drain(self) -> list[str]:
        """Return the lines added since the last call, and remove them."""
        lines, self._lines = self._lines, []
        return lines

    def flush(self) -> None:
        """Do nothing. The calls of one worker run in order, so that its lines are there once this one has ended."""
