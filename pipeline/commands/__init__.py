"""The program's commands: a table of names, and one file for each.

A command ``pipeline/commands/<name>.py`` has one function, ``read(argv, program)``, which takes the words after the
command's name and returns what is then to be done, or None when ``--help`` was asked for and has been printed. It
raises ``OptionsError`` on wrong words, and loads nothing heavy.
"""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from pipeline.errors import OptionsError

Action = Callable[[], int]
"""Does what the command line asks for and returns the exit code."""

DEFAULT = "run"
COMMANDS = {
    "run": "compress a network and report (the default: the word may be left out)",
    "inspect": "show an artifact's header, its layers and what its bytes are spent on",
    "evaluate": "measure an artifact's Top-1, and how often it agrees with another",
    "verify": "check an artifact's every byte",
    "report": "merge the reports of several runs into one",
    "cache": "show or clear out the results that runs have left for later ones",
    "export": "write an artifact's network as ONNX, or as a state dict for PyTorch",
    "schema": "print the JSON Schema of report.json",
}
"""Name -> what the command does, for ``--help``."""


class Command(Protocol):
    """What the module of a command offers."""

    def read(self, argv: list[str], program: str) -> Action | None:
        """Read the words after the command's name."""


def read_command_line(argv: list[str], program: str = "seriesquant") -> Action | None:
    """Find the command and let it read the rest of the command line.

    Args:
        argv: The words after the program's name.
        program: The program's name in ``--help``.

    Returns:
        What is to be done, or None when ``--help`` was asked for and has been printed.

    Raises:
        OptionsError: The command does not exist, or its words are wrong.
    """
    if not argv or argv[0].startswith("-"):
        return _command(DEFAULT).read(argv, program)
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise OptionsError(f"there is no command {name!r}; {hint}allowed: {', '.join(COMMANDS)}, or flags alone")
    return _command(name).read(rest, f"{program} {name}")


def commands_help() -> str:
    """One line per command, for ``--help``."""
    return "\n\n".join(f"{name}: {what}." for name, what in COMMANDS.items())


def _command(name: str) -> Command:
    return cast(Command, import_module(f"pipeline.commands.{name}"))
