"""The program: find the command, do what it asks for, turn what went wrong into an exit code."""

import logging
import sys
from pathlib import Path

from pipeline.commands import Action, read_command_line
from pipeline.failure import failure_of
from pipeline.logs import log_to_stderr
from pipeline.options.options import PROGRAM
from pipeline.peek import log_format_of, report_refusal
from pipeline.runtime.launcher import is_told, leave_others, speaker
from pipeline.runtime.signals import ignore_signals, on_signals

logger = logging.getLogger(__name__)


def program() -> int:
    """Run the program as a process of its own: once its work is done, no signal changes its exit code.

    Returns:
        The exit code.
    """
    code = main()
    ignore_signals()
    return code


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: The words after the program's name; those of the process by default.

    Returns:
        The exit code; ``pipeline.failure.EXIT_CODES`` says what each means.
    """
    words = sys.argv[1:] if argv is None else argv
    log_to_stderr(log_format_of(words))
    code = _exit_code(words)
    if code:
        leave_others(code)
    return code


def _exit_code(words: list[str]) -> int:
    try:
        with on_signals():
            action = _read(words)
            return 0 if action is None else action()
    except BaseException as error:
        return _fail(error)


def _read(argv: list[str]) -> Action | None:
    program = _program()
    try:
        return read_command_line(argv, program)
    except BaseException as error:
        report_refusal(argv, error, program.split())
        raise


def _fail(error: BaseException) -> int:
    failure = failure_of(error)
    if not is_told(error):
        what = f"{speaker()}{failure.message}"
        logger.error("%s", what, extra={"exit_code": failure.exit_code}, exc_info=not failure.known)
    return failure.exit_code


def _program() -> str:
    return " ".join(PROGRAM) if Path(sys.argv[0]).name == PROGRAM[-1] else "seriesquant"
