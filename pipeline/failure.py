"""Exit codes, and the report of a run that failed, so that a program finds a report on every path. Imports no torch."""

import json
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from basis.errors import CompressionError, NumericalError
from pipeline.errors import BusyError, ClusterError, DataError, LostProcessError
from pipeline.options.options import Options
from pipeline.runtime.environment import git_commit, hardware, library_versions
from pipeline.runtime.launcher import launched
from pipeline.runtime.locks import locked
from pipeline.runtime.signals import HungUp, Terminated
from pipeline.runtime.workers import lost_worker
from reports.fields import to_json
from reports.files import write_atomically
from reports.gate import judge
from reports.model import EXIT_DONE as EXIT_DONE
from reports.model import EXIT_GATE as EXIT_GATE
from reports.model import SCHEMA_VERSION, Gate

logger = logging.getLogger(__name__)

REPORT, PREVIOUS = "report.json", "previous-report.json"
FOLDER_LOCK: Final = ".seriesquant.lock"
"""The lock file of an output folder."""

EXIT_INTERNAL, EXIT_OPTIONS, EXIT_DATA, EXIT_NUMERICAL = 1, 2, 4, 5
EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_TERMINATED = 129, 130, 143  # 128 + the signal's number, as shells report it

EXIT_CODES: Final = {
    EXIT_DONE: "done",
    EXIT_INTERNAL: "internal error, an output folder that cannot be written or stays locked, a lost cluster or process",
    EXIT_OPTIONS: "wrong arguments or options, or a network that cannot be compressed",
    EXIT_GATE: "a gate or target missed, or a reloaded file whose logits differ; the report is written",
    EXIT_DATA: "data or weights missing or damaged",
    EXIT_NUMERICAL: "numerical failure: training diverged, values not finite, a matrix that cannot be factored",
    EXIT_HANGUP: "hung up (SIGHUP)",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C)",
    EXIT_TERMINATED: "terminated (SIGTERM)",
}
"""Every exit code and its meaning."""

_RESUME = "to go on from the last checkpoint, run the same command again"
_INTERRUPTIONS: Final = {HungUp: "hung up", KeyboardInterrupt: "interrupted", Terminated: "terminated"}
_CODE_OF: Final[dict[type, int]] = {  # the nearest base class of an exception decides
    CompressionError: EXIT_OPTIONS,
    NumericalError: EXIT_NUMERICAL,
    DataError: EXIT_DATA,
    BusyError: EXIT_INTERNAL,
    ClusterError: EXIT_INTERNAL,
    LostProcessError: EXIT_INTERNAL,
    OSError: EXIT_INTERNAL,
    HungUp: EXIT_HANGUP,
    KeyboardInterrupt: EXIT_INTERRUPTED,
    Terminated: EXIT_TERMINATED,
}


@dataclass(frozen=True)
class Failure:
    """The reason why a run ended early.

    Attributes:
        type: The name of the exception's class.
        message: One sentence.
        exit_code: See ``EXIT_CODES``.
        known: True if the sentence is complete; False for a bug, which is logged with its traceback.
    """

    type: str
    message: str
    exit_code: int
    known: bool

    @property
    def status(self) -> str:
        """Return the report's status: ``failed`` or ``interrupted``."""
        return "interrupted" if self.exit_code in (EXIT_HANGUP, EXIT_INTERRUPTED, EXIT_TERMINATED) else "failed"


def failure_of(error: BaseException, *, resumes: bool = True) -> Failure:
    """Return the exit code and the message of an exception that ended a command.

    A ``CompressionError`` of no more specific class is an argument that cannot be used: ``EXIT_OPTIONS``.

    Args:
        error: The exception.
        resumes: True if the command is a run, which keeps checkpoints. The message of an interruption then
            explains how to resume.
    """
    error = lost_worker(error) or error
    name = type(error).__name__
    code = next((_CODE_OF[kind] for kind in type(error).__mro__ if kind in _CODE_OF), None)
    sentence = f"internal error: {name}: {error}" if code is None else _sentence(error, resumes)
    return Failure(name, " ".join(sentence.split()), EXIT_INTERNAL if code is None else code, code is not None)


class FailureReporter:
    """Writes the failed report of a run into its output folder, once.

    Args:
        options: The run's options.
    """

    def __init__(self, options: Options) -> None:
        self._options, self._started, self._written = options, time.monotonic(), False

    @contextmanager
    def watching(self, *, holding: bool = False) -> Generator[None]:
        """Write the report if the block raises, in the main process; the error is raised again.

        Args:
            holding: True if the run holds the lock of its folder. Without it, no report is written for a
                ``BusyError``, or if another run holds the lock: the folder belongs to that run.
        """
        try:
            yield
        except BaseException as error:
            if launched().is_main and not self._written and (holding or not isinstance(error, BusyError)):
                self._written = True
                self._write(failure_of(error), holding)
            raise

    def _write(self, failure: Failure, holding: bool) -> None:
        options, seconds = self._options, round(time.monotonic() - self._started, 1)
        header = run_header(options.command(), options) | {"duration_s": seconds}
        gate = judge([], None, max_drop=options.max_drop, max_size_mb=options.max_size_mb)
        write_failure(options.out, failed_report(header, failure, gate), holding=holding)


def failed_report(header: dict[str, Any], failure: Failure, gate: Gate | None = None) -> dict[str, Any]:
    """Return the report of a run without results.

    Args:
        header: The report's ``run``, see ``run_header``.
        failure: The reason why it ended.
        gate: The limits of the run, not judged; None if they are not known.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "status": failure.status,
        "error": {"type": failure.type, "message": failure.message, "exit_code": failure.exit_code},
        "exit_code": failure.exit_code,
        "run": header,
        "baseline": None,
        "rows": [],
        "layers": [],
        "gate": (gate or judge([], None)).model_dump(),
        "kernels": None,
    }


def write_failure(folder: Path, report: dict[str, Any], *, holding: bool = False) -> None:
    """Write a failed run's report.json; change no other file of the folder.

    The report of an earlier run that succeeded is kept beside it as previous-report.json. If the folder cannot be
    written, or if another run holds its lock, nothing is written and no error is raised: the program still logs the
    failure. The same holds if the lock file cannot be opened, because another user's run may hold it.

    Args:
        folder: The output folder.
        report: The report, see ``failed_report``.
        holding: True if the run holds the lock of the folder.
    """
    lock = folder / FOLDER_LOCK
    try:
        alone = nullcontext() if holding or not lock.exists() else locked(lock, f"the output folder {folder}", 0)
        with alone:
            _replace_report(folder, json.dumps(to_json(report), indent=2) + "\n")
    except BusyError:
        logger.info("no failed report is written: another run uses the output folder %s", folder)
    except (OSError, ValueError) as error:  # ValueError: the folder's name is invalid
        if getattr(error, "filename", None) == str(lock):
            logger.info("no failed report is written: another run may hold %s, which cannot be opened", lock)
        logger.debug("no failed report in %s: %s", folder, error)


def _replace_report(folder: Path, text: str) -> None:
    finished = _finished(folder / REPORT)
    if finished is not None:
        write_atomically(folder / PREVIOUS, finished)
    write_atomically(folder / REPORT, text)


def run_header(command: str, options: Options | None) -> dict[str, Any]:
    """Return the report's ``run``, with None for values that only the stages find out.

    Args:
        command: The command line that repeats the run.
        options: The run's options; None if they could not be read.
    """
    return {
        "command": command,
        "model": options.model if options else None,
        "weights": None,
        "dataset": None,
        "seed": options.seed if options else None,
        "device": None,
        "precision": None,
        "processes": 1,
        "hardware": hardware(),
        "git_commit": git_commit(),
        "versions": library_versions(),
        "options": options.model_dump(mode="json") if options else None,
        "out": str(options.out) if options else None,
        "calibration_images": None,
        "stages": [],
        "duration_s": None,
    }


def _finished(path: Path) -> bytes | None:
    """Return the bytes of a report that is not itself of a failed run; None if there is no such file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        report = json.loads(content)
    except ValueError:
        return content
    failed = isinstance(report, dict) and report.get("status") in ("failed", "interrupted")
    return None if failed else content


def _sentence(error: BaseException, resumes: bool) -> str:
    for kind, word in _INTERRUPTIONS.items():
        if isinstance(error, kind):
            return f"{word}; {_RESUME}" if resumes else word
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error)
