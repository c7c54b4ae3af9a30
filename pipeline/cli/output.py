"""What the program says on stderr: plain lines, or one JSON object a line for programs that read them."""

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

from pipeline.runtime.launcher import launched, rank_prefix
from pipeline.runtime.progress import Task, task_words

OUR_LOGGERS = ("basis", "pipeline", "quant", "reports")


def log_to_stderr(log_format: str) -> None:
    """Send the process's log to stderr; for programs alone, since a library leaves logging to its caller.

    Of several processes that run a command together, all but the main one tell errors only.

    Args:
        log_format: ``text`` or ``json``.
    """
    handler = _StderrHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    others, ours = (logging.ERROR, logging.ERROR) if rank_prefix() else (logging.WARNING, logging.INFO)
    logging.basicConfig(level=others, handlers=[handler], force=True)
    logging.captureWarnings(log_format == "json")
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(ours)


class TextFormatter(logging.Formatter):
    """The message alone; what ended the program is marked as its error."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the record's text."""
        return ("error: " if hasattr(record, "exit_code") else "") + super().format(record)


class JsonFormatter(logging.Formatter):
    """A JSON object each: time, level, event (``log``, or ``error`` for what ended the run), logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the record as one line."""
        code = getattr(record, "exit_code", None)
        about: dict[str, object] = {"logger": record.name, "message": record.getMessage()}
        if code is not None:
            about["exit_code"] = code
        if record.exc_info and record.exc_info[1] is not None:
            about["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        level = record.levelname.lower()
        return _line(datetime.fromtimestamp(record.created, UTC), level, "log" if code is None else "error", about)


class JsonProgressLines:
    """Progress as JSON objects: the events ``stage`` and ``progress``."""

    def stage(self, name: str) -> str:
        """One line that says that a stage begins."""
        return _line(datetime.now(UTC), "info", "stage", {"message": name, "stage": name})

    def task(self, task: Task) -> str:
        """One line that says how far a task is."""
        figures = {"done": task.done, "total": task.total, "status": task.status, "ended": task.ended}
        about = {"message": task_words(task), "stage": task.description, **figures, "seconds": round(task.seconds, 3)}
        return _line(datetime.now(UTC), "info", "progress", about)


def _line(time: datetime, level: str, event: str, about: dict[str, object]) -> str:
    stamp = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": stamp, "level": level, "event": event, **about})


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at the time: progress bars replace it while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def print_result(text: str) -> None:
    """Print to stdout, once where a launcher started several processes.

    A reader that has gone away, as in ``| head``, is no error of ours.
    """
    if not launched().is_main:
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more as it exits, which would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
