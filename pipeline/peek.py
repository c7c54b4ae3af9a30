"""A first look at a command line that may be wrong: where its report goes, and how its log is written."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import OptionsError
from pipeline.failure import failed_report, failure_of, run_facts, write_failure
from pipeline.options.file import parse_options_file
from pipeline.options.values import CHOICES, flag_name, parse_text
from pipeline.runtime.launcher import speaker

DEFAULT = CHOICES["log_format"][0]


def log_format_of(argv: Sequence[str]) -> str:
    """What a run's command line, or its options file, says of ``--log-format``; the default where it says nothing."""
    said = _said(argv, "log_format") if _is_run(argv) else None
    return said if said in CHOICES["log_format"] else DEFAULT


def report_refusal(argv: Sequence[str], error: BaseException, program: Sequence[str]) -> None:
    """Write the failed report of a run whose options could not be read, if they name an output folder.

    Of several processes that run a command together, the main one writes it.

    Args:
        argv: The words after the program's name.
        error: Why they were refused.
        program: The words before them.
    """
    out = _said(argv, "out") if _is_run(argv) and "--dry-run" not in argv else None
    if out is None or speaker():
        return
    facts = run_facts(shlex.join([*program, *argv]), None) | {"out": out, "duration_s": 0.0}
    write_failure(Path(out), failed_report(facts, failure_of(error)))


def _is_run(argv: Sequence[str]) -> bool:
    return bool(argv) and (argv[0].startswith("-") or argv[0] == "run")


def _said(argv: Sequence[str], option: str) -> str | None:
    """An option's value, from the flags or else from the options file; None where it is in neither, or no text."""
    value: object = _flag(argv, flag_name(option))
    if value is None and (file := _flag(argv, "--options")) is not None:
        value = _in_file(Path(file), option)
    try:
        return parse_text(value)
    except ValueError:
        return None


def _flag(argv: Sequence[str], name: str) -> str | None:
    """The last value given to a flag, as ``--out FOLDER`` or ``--out=FOLDER``."""
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
    except OptionsError:
        return None
    return content.get(option, content.get(option.replace("_", "-")))
