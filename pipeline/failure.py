"""The report of a run that did not end well, so that a program finds one on every path. Nothing here loads torch."""

import json
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import BusyError
from pipeline.exits import Failure, failure_of
from pipeline.facts import SCHEMA_VERSION, run_facts
from pipeline.launcher import launched
from pipeline.options import Options
from reports.fields import to_json
from reports.files import write_atomically
from reports.gate import judge
from reports.model import Gate

logger = logging.getLogger(__name__)

REPORT, PREVIOUS = "report.json", "previous-report.json"


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
        facts = run_facts(options.command(), options) | {"duration_s": seconds}
        gate = judge([], None, max_drop=options.max_drop, max_size_mb=options.max_size_mb)
        write_failure(options.out, failed_report(facts, failure, gate))


def failed_report(facts: dict[str, Any], failure: Failure, gate: Gate | None = None) -> dict[str, Any]:
    """The report of a run that has no result.

    Args:
        facts: Its ``run``, see ``pipeline.facts``.
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
        "gate": (gate or judge([], None)).model_dump(),
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
