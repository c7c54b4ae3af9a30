"""Reading a command line with typer: what was given, or one sentence on what is wrong."""

from collections.abc import Callable
from typing import Any

import typer

from pipeline.errors import OptionsError

FLAGS_ALLOWED = "flags with one value each, lists written with commas"


def read_arguments(
    signature: Callable[..., Any], argv: list[str], program: str, summary: str, allowed: str = FLAGS_ALLOWED
) -> Any:
    """Read the words after a program's name.

    Args:
        signature: A function whose annotated parameters are typer's arguments and options; it is called with them.
        argv: The words.
        program: The program's name in ``--help``.
        summary: What ``--help`` says of the program.
        allowed: What an error message says is allowed.

    Returns:
        What ``signature`` returns, or None when ``--help`` was asked for and has been printed.

    Raises:
        OptionsError: A flag does not exist or lacks its value, or a word is missing or one too many.
    """
    app = typer.Typer(add_completion=False)
    app.command(help=summary)(signature)
    try:
        given = typer.main.get_command(app).main(argv, prog_name=program, standalone_mode=False)
    except typer.TyperException as error:
        raise OptionsError(_sentence(error, allowed)) from None
    return None if isinstance(given, int) else given  # typer gives --help's exit code


def _sentence(error: typer.TyperException, allowed: str) -> str:
    name = getattr(error, "option_name", None)
    message = error.format_message().rstrip(".")
    if name and message.startswith("No such option"):
        nearest = getattr(error, "possibilities", None)
        return f"there is no flag {name}; " + (
            f"did you mean {nearest[0]}?" if nearest else "see --help for all of them"
        )
    return f"{message[0].lower()}{message[1:]}; allowed: {allowed}"
