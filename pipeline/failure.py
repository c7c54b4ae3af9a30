"""The report of a run that did not end well, so that a program finds one on every path. Nothing here loads torch."""

import json
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basis.errors import CompressionError
from pipeline.errors import BusyError, ClusterError, LostProcessError, OptionsError
from pipeline.gate import judge
from pipeline.options.options import Options
from pipeline.runtime.environment import git_commit, hardware, library_versions
from pipeline.runtime.launcher import launched
from pipeline.runtime.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from reports.files import write_atomically
from reports.reading import SCHEMA_VERSION
from reports.write import to_json

logger = logging.getLogger(__name__)

REPORT, PREVIOUS = "report.json", "previous-report.json"


EXIT_DONE, EXIT_INTERNAL, EXIT_OPTIONS, EXIT_GATE, EXIT_DATA = 0, 1, 2, 3, 4

EXIT_CODES = {
    EXIT_DONE: "done",
    EXIT_INTERNAL: "internal error, a folder that cannot be written, or one that another run did not free in time",
    EXIT_OPTIONS: "wrong arguments or options",
    EXIT_GATE: "a gate missed; the report is written",
    EXIT_DATA: "data or weights missing or damaged",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C)",
    EXIT_TERMINATED: "terminated (SIGTERM)",
}
"""Every exit code and what it means."""

_RESUME = "to go on from the last checkpoint, run the same command again"
_CODES: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits
    (OptionsError, EXIT_OPTIONS),
    (BusyError, EXIT_INTERNAL),
    (ClusterError, EXIT_INTERNAL),
    (LostProcessError, EXIT_INTERNAL),
    (CompressionError, EXIT_DATA),
    (OSError, EXIT_INTERNAL),
    (KeyboardInterrupt, EXIT_INTERRUPTED),
    (Terminated, EXIT_TERMINATED),
)


@dataclass(frozen=True)
class Failure:
    """What ended a run before it was done.

    Attributes:
        type: The name of the exception's class.
        message: One sentence.
        exit_code: See ``EXIT_CODES``.
        known: Whether the sentence tells all of it; otherwise it is a defect, to be shown with its traceback.
    """

    type: str
    message: str
    exit_code: int
    known: bool

    @property
    def status(self) -> str:
        """The report's word for it: ``failed`` or ``interrupted``."""
        return "interrupted" if self.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED) else "failed"


def failure_of(error: BaseException) -> Failure:
    """What an exception that ended a run comes to."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    sentence = f"internal error: {type(error).__name__}: {error}" if code is None else _sentence(error)
    name, known = type(error).__name__, code is not None
    return Failure(name, " ".join(sentence.split()), EXIT_INTERNAL if code is None else code, known)


class FailureReporter:
    """Leaves the failed report of a run in its output folder, once.

    Args:
        options: The run's options.
    """

    def __init__(self, options: Options) -> None:
        """The run begins."""
        self._options, self._started, self._told = options, time.monotonic(), False

    @contextmanager
    def watching(self, *, holding: bool = False) -> Generator[None]:
        """Write the report where the block raises, in the main process; the error goes on its way.

        Args:
            holding: Whether the run holds the lock of its folder. Where it does not, a folder that is in use
                (``BusyError``) is left to the run that uses it.
        """
        try:
            yield
        except BaseException as error:
            if launched().is_main and not self._told and (holding or not isinstance(error, BusyError)):
                self._told = True
                self._write(failure_of(error))
            raise

    def _write(self, failure: Failure) -> None:
        options, seconds = self._options, round(time.monotonic() - self._started, 1)
        facts = run_header(options.command(), options) | {"duration_s": seconds}
        gate = judge([], None, max_drop=options.max_drop, max_size_mb=options.max_size_mb)
        write_failure(options.out, failed_report(facts, failure, gate))


def failed_report(facts: dict[str, Any], failure: Failure, gate: dict[str, Any] | None = None) -> dict[str, Any]:
    """The report of a run that has no result.

    Args:
        facts: Its ``run``, see ``pipeline.failure``.
        failure: What ended it.
        gate: The limits that were set, not judged; None where they are not known.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "status": failure.status,
        "error": {"type": failure.type, "message": failure.message, "exit_code": failure.exit_code},
        "exit_code": failure.exit_code,
        "run": facts,
        "baseline": None,
        "rows": [],
        "layers": [],
        "gate": gate or judge([], None),
        "kernels": None,
    }


def write_failure(folder: Path, report: dict[str, Any]) -> None:
    """Write a failed run's report.json, and nothing else of the folder.

    The report of an earlier run that was done is kept beside it as previous-report.json. A folder that cannot be
    written has no report: the program's last line then tells the error alone.
    """
    try:
        text = json.dumps(to_json(report), indent=2) + "\n"
        finished = _finished(folder / REPORT)
        if finished is not None:
            write_atomically(folder / PREVIOUS, finished)
        write_atomically(folder / REPORT, text)
    except (OSError, ValueError) as error:  # ValueError: the folder's name is none
        logger.debug("no failed report in %s: %s", folder, error)


def _finished(path: Path) -> bytes | None:
    """The bytes of a report that does not itself tell of a failure; None where there is no such file."""
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


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {_RESUME}"
    if isinstance(error, Terminated):
        return f"terminated; {_RESUME}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error)


__all__ = ["SCHEMA_VERSION", "run_header"]


def run_header(command: str, options: Options | None) -> dict[str, Any]:
    """The report's ``run``, with None for what only the stages find out.

    Args:
        command: The command line that repeats the run.
        options: The run's options; None where they could not be read.
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
