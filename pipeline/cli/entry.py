"""The program: find the command, execute it, and turn errors into exit codes."""

import difflib
import logging
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from basis.memory import keep_freed_memory
from pipeline.cli.arguments import COMMANDS, DEFAULT, Action
from pipeline.cli.output import flush_streams, log_to_stderr, prepare_streams
from pipeline.errors import OptionsError
from pipeline.failure import EXIT_DONE, Failure, failed_report, failure_of, run_header, write_failure
from pipeline.options.file import parse_options_file
from pipeline.options.options import PROGRAM
from pipeline.options.paths import expanded, parse_output_path
from pipeline.options.values import CHOICES, flag_name
from pipeline.runtime.launcher import exit_if_distributed, has_met, is_reported_elsewhere, is_shared, rank_prefix
from pipeline.runtime.signals import ignore_signals, on_signals, signal_within
from pipeline.runtime.threads import prepare_threads

logger = logging.getLogger(__name__)

SECONDS_FOR_MAIN_RANK = 10.0
"""Seconds in which rank 0 reports an error of the options: ranks of one command start less than a few seconds apart."""


def program() -> int:
    """Run the program as the whole process: after its work is done, no signal changes its exit code.

    Returns:
        The exit code.
    """
    prepare_streams()
    prepare_threads()
    keep_freed_memory()
    code = main()
    ignore_signals()
    flush_streams()
    return code


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: The arguments after the program's name; the arguments of the process by default.

    Returns:
        The exit code, see ``pipeline.failure.EXIT_CODES``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    log_to_stderr(log_format_of(arguments))
    code = _exit_code(arguments)
    if code:
        exit_if_distributed(code)
    return code


def _exit_code(arguments: list[str]) -> int:
    try:
        with on_signals():
            action = _read(arguments)
            return EXIT_DONE if action is None else action()
    except BaseException as error:
        return _fail(error, resumes=_keeps_results(arguments))


def _read(argv: list[str]) -> Action | None:
    program = _program()
    try:
        action = read_command_line(argv, program)
        if action is not None:
            _check_current_folder()
        return action
    except BaseException as error:
        report_refusal(argv, error, program.split())
        raise


def _check_current_folder() -> None:
    """Check that the current folder exists: libraries of torch end the process where it was removed.

    Raises:
        OSError: It does not.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise OSError("the current folder does not exist any more; allowed: a folder that exists") from error


def _fail(error: BaseException, *, resumes: bool) -> int:
    failure = failure_of(error, resumes=resumes)
    if not is_reported_elsewhere(error) and not _main_rank_reports(failure):
        message = f"{rank_prefix()}{failure.message}"
        logger.error("%s", message, extra={"exit_code": failure.exit_code}, exc_info=not failure.known)
    if is_shared(error):
        from pipeline.runtime.processes import wait_after_shared_error  # only now: it imports torch

        wait_after_shared_error()
    return failure.exit_code


def _main_rank_reports(failure: Failure) -> bool:
    """Return True if rank 0 reports the failure of this rank, which has not met the others yet.

    A launcher ends all ranks when one ends. This rank therefore waits until rank 0 has reported and ended. If no signal
    arrives, the failure is of this rank alone, such as an options file that only this machine lacks.
    """
    if not rank_prefix() or has_met():
        return False
    return failure.status == "interrupted" or signal_within(SECONDS_FOR_MAIN_RANK)


def _program() -> str:
    return " ".join(PROGRAM) if Path(sys.argv[0]).name == PROGRAM[-1] else "seriesquant"


def log_format_of(argv: Sequence[str]) -> str:
    """Return a run's ``--log-format``, before its options are checked; the default if it is not given or unknown."""
    found = _find_option(argv, "log_format") if _is_run(argv) else None
    return found if found in CHOICES["log_format"] else CHOICES["log_format"][0]


def report_refusal(argv: Sequence[str], error: BaseException, program: Sequence[str]) -> None:
    """Write the failed report of a run whose options were refused, if they name an output folder.

    Only the main rank writes it.

    Args:
        argv: The arguments after the program's name.
        error: The error that refused them.
        program: The program's name, as it was called.
    """
    out = _find_option(argv, "out") if _keeps_results(argv) else None
    if out is None or rank_prefix():
        return
    header = run_header(shlex.join([*program, *argv]), None) | {"out": out, "duration_s": 0.0}
    write_failure(Path(out), failed_report(header, failure_of(error)))


def _is_run(argv: Sequence[str]) -> bool:
    return bool(argv) and (argv[0].startswith("-") or argv[0] == "run")


def _keeps_results(argv: Sequence[str]) -> bool:
    """Return True for a run that is not a dry run: it writes a report and resumes from checkpoints."""
    return _is_run(argv) and "--dry-run" not in argv


def _find_option(argv: Sequence[str], option: str) -> str | None:
    """Return an option's value from the flags, or else from the options file; None if it is missing or not text."""
    value: object = _flag(argv, flag_name(option))
    if value is None and (file := _flag(argv, "--options")) is not None:
        value = _in_file(expanded(file), option)
    try:
        return parse_output_path(flag_name(option), value)
    except ValueError:
        return None


def _flag(argv: Sequence[str], name: str) -> str | None:
    """Return the last value of a flag, given as ``--out FOLDER`` or ``--out=FOLDER``."""
    found = None
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == name and following and not following.startswith("--"):
            found = following
        elif word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


def _in_file(path: Path, option: str) -> object:
    try:
        content = parse_options_file(path)
    except OptionsError:  # the full parse that follows raises it again
        return None
    return content.get(option, content.get(option.replace("_", "-")))


class Command(Protocol):
    """The interface of a command's module."""

    def read(self, argv: list[str], program: str) -> Action | None:
        """Parse the arguments after the command's name.

        Args:
            argv: The arguments.
            program: The program's and the command's name in ``--help``.

        Returns:
            The command, ready to be executed, or None if ``--help`` was given and printed.

        Raises:
            OptionsError: An argument is wrong, missing or unknown.
        """


def read_command_line(argv: list[str], program: str = "seriesquant") -> Action | None:
    """Find the command, and parse the rest of the command line with it.

    Args:
        argv: The arguments after the program's name.
        program: The program's name in ``--help``.

    Returns:
        The command, ready to be executed, or None if ``--help`` or ``--version`` was given and printed.

    Raises:
        OptionsError: The command does not exist, or an argument is wrong, missing or unknown.
    """
    if not argv or argv[0].startswith("-"):
        return _command(DEFAULT).read(argv, program)
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise OptionsError(f"there is no command {name!r}; {hint}allowed: {', '.join(COMMANDS)}, or flags alone")
    return _command(name).read(rest, f"{program} {name}")


def _command(name: str) -> Command:
    return cast(Command, import_module(f"pipeline.cli.{name}"))
