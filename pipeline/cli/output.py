"""Format logs and progress for stderr, as plain lines or as one JSON object a line; print results to stdout."""

import json
import logging
import os
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from pipeline.runtime.launcher import launched, rank_prefix
from pipeline.runtime.packages import PACKAGES
from pipeline.runtime.progress import Task, task_text


def log_to_stderr(log_format: str) -> None:
    """Send the process's log to stderr; for programs only, since a library leaves logging to its caller.

    Of several ranks, all but the main one log errors only.

    Args:
        log_format: ``text`` or ``json``.
    """
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    others, ours = (logging.ERROR, logging.ERROR) if rank_prefix() else (logging.WARNING, logging.INFO)
    logging.basicConfig(level=others, handlers=[handler], force=True)
    logging.captureWarnings(log_format == "json")
    for name in PACKAGES:
        logging.getLogger(name).setLevel(ours)


class TextFormatter(logging.Formatter):
    """Formats the message alone, with the prefix ``error:`` for the error that ended the program."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text."""
        return ("error: " if hasattr(record, "exit_code") else "") + super().format(record)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object: time, level, event, logger and message.

    The event is ``log``, or ``error`` for the error that ended the run.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        code = getattr(record, "exit_code", None)
        about: dict[str, object] = {"logger": record.name, "message": record.getMessage()}
        if code is not None:
            about["exit_code"] = code
        if record.exc_info and record.exc_info[1] is not None:
            about["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        level = record.levelname.lower()
        return _line(datetime.fromtimestamp(record.created, UTC), level, "log" if code is None else "error", about)


class JsonProgressLines:
    """Formats progress as JSON objects: the events ``stage``, ``result`` and ``progress``."""

    def stage(self, name: str) -> str:
        """Return the line of a stage that begins."""
        return _line(datetime.now(UTC), "info", "stage", {"message": name, "stage": name})

    def result(self, text: str) -> str:
        """Return the line of a stage's figures."""
        return _line(datetime.now(UTC), "info", "result", {"message": text})

    def task(self, task: Task) -> str:
        """Return the line of a task's state."""
        figures = {"done": task.done, "total": task.total, "status": task.status, "ended": task.ended}
        about = {"message": task_text(task), "stage": task.description, **figures, "seconds": round(task.seconds, 3)}
        return _line(datetime.now(UTC), "info", "progress", about)


def _line(time: datetime, level: str, event: str, about: dict[str, object]) -> str:
    stamp = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": stamp, "level": level, "event": event, **about})


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, which progress bars replace while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def prepare_streams() -> None:
    """Make stdout and stderr take every text: a character that the encoding lacks is replaced.

    A closed stream is replaced by the null device.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 # open until the end
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def flush_streams() -> None:
    """Flush stdout and stderr; else Python would report a closed pipe at exit, with an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)


def print_result(text: str) -> None:
    """Print to stdout, in the main rank only; a closed pipe, as in ``| head``, is no error.

    Raises:
        OSError: Stdout cannot be written for another reason, such as a full disk.
    """
    if not launched().is_main:
        return
    try:
        print(text, flush=True)
    except OSError as error:
        _silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "stdout") from None


def _silence(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to the null device, because Python flushes it again at exit."""
    with suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
