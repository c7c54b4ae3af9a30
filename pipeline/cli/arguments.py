"""Parse a command line with typer: one flag per option of a run, plus ``--options`` and ``--dry-run``."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from pydantic.fields import FieldInfo

from pipeline.cli.output import print_result
from pipeline.errors import OptionsError
from pipeline.failure import EXIT_CODES
from pipeline.options.paths import check_local, expanded, parse_argument, parse_output_path
from pipeline.options.values import flag_name, parse_device, shown
from pipeline.runtime.environment import git_commit, package_version

SUMMARY = f"""Compress a trained CNN by series approximation and quantization, and report what it cost.

Example: --bits 4 --config 6,3,3,2,2 compresses ResNet-18 on the embedded digits.

Exit codes: {"; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())}."""
FILE_ALLOWED = "one FILE, and the flags that --help shows"
FLAGS_ALLOWED = "flags with one value each, lists written with commas"
_Number = TypeVar("_Number", int, float)
_METAVARS = {"config": "ORDERS", "out": "FOLDER", "image_size": "H[,W]"} | dict.fromkeys(
    ("bits", "target_mb", "dense_bits", "basis", "track", "mean", "std"), "LIST"
)


@dataclass(frozen=True)
class Flags:
    """The flags of a command line, unchecked.

    Attributes:
        values: Option name -> text (a list of texts for ``config``, a bool for switches), for the flags given.
        options_file: The file named by ``--options``, or None.
        dry_run: True with ``--dry-run``: print the plan only.
    """

    values: dict[str, object]
    options_file: Path | None
    dry_run: bool


def read_flags(
    argv: list[str], fields: Mapping[str, FieldInfo], program: str = "seriesquant", commands: str = ""
) -> Flags | None:
    """Split a command line into flags. The values stay text, because ``Options`` checks them all together.

    Args:
        argv: The arguments after the program's name.
        fields: Every option's name and field, which holds its help text.
        program: The program's name in ``--help``.
        commands: The description of the program's commands in ``--help``.

    Returns:
        The flags, or None if ``--help`` or ``--version`` was given and printed.

    Raises:
        OptionsError: A flag does not exist or lacks its value, or an argument belongs to no flag.
    """
    given = read_arguments(_signature(fields), argv, program, f"{SUMMARY}\n\n{commands}")
    if given is None:
        return None
    values = {name: value for name, value in given.items() if name in fields and value not in (None, [])}
    file = given["options"]
    return Flags(values, input_path("--options", file) if file is not None else None, bool(given["dry_run"]))


def _signature(fields: Mapping[str, FieldInfo]) -> Callable[..., dict[str, object]]:
    """Return a function for typer whose signature is the table of options."""

    def collect(**given: object) -> dict[str, object]:
        return given

    parameters = [_parameter(name, field) for name, field in fields.items()]
    parameters += [
        _keyword(
            "options", str | None, help="YAML or TOML file of options; flags win over it", metavar="FILE", panel="Run"
        ),
        _keyword("dry_run", bool | None, "--dry-run", help="print the plan and stop", panel="Run"),
        _keyword(
            "version",
            bool | None,
            "--version",
            help="print the version and stop",
            panel="Run",
            callback=_print_version,
            is_eager=True,  # before the other flags are checked
        ),
    ]
    command = cast(Any, collect)
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return collect


def _print_version(given: bool | None) -> None:
    if not given:
        return
    commit = git_commit()
    print_result(f"seriesquant {package_version()}{f', commit {commit}' if commit else ''}")
    raise typer.Exit


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra, flag = cast(dict[str, str], field.json_schema_extra), flag_name(name)
    about = {"help": f"{field.description}{_default(field)}", "panel": extra["panel"]}
    if field.annotation is bool:
        return _keyword(name, bool | None, f"{flag}/--no-{name}", **about)  # each overrides the options file
    kind = list[str] | None if name == "config" else str | None
    return _keyword(name, kind, metavar=_metavar(name, field), **about)


def _keyword(name: str, kind: Any, *declarations: str, panel: str, **about: Any) -> inspect.Parameter:
    option = typer.Option(*(declarations or (flag_name(name),)), rich_help_panel=panel, **about)
    annotation = cast(Any, Annotated)[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(name: str, field: FieldInfo) -> str:
    numeric = any(kind in str(field.annotation) for kind in ("int", "float"))
    return _METAVARS.get(name, "N" if numeric else "TEXT")


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return " (required without a target or a parametric basis)"
    if default is None or default is False or default == ():
        return ""
    if default is True:
        return " (default yes)"
    return f" (default {','.join(map(str, default)) if isinstance(default, tuple) else default})"


Action = Callable[[], int]
"""Executes a parsed command and returns the exit code."""

DEFAULT = "run"

COMMANDS = {
    "run": "compress a network and report (the default: the word may be left out)",
    "inspect": "show an artifact's header, its layers and what its bytes are spent on",
    "evaluate": "measure an artifact's Top-1, and how often it agrees with another",
    "verify": "check an artifact's every byte",
    "report": "merge the reports of several runs into one",
    "poster": "print the poster's tables beside the figures of runs",
    "cache": "show or clear out the results that runs have left for later ones",
    "export": "write an artifact's network as ONNX, or as a state dict for PyTorch",
    "schema": "print the JSON Schema of report.json",
}
"""Name -> description of the command in ``--help``."""


def commands_help() -> str:
    """Return one line per command, for ``--help``."""
    return "\n\n".join(f"{name}: {what}." for name, what in COMMANDS.items())


File = Annotated[str, typer.Argument(metavar="FILE", help="an artifact", show_default=False)]
AllowImport = Annotated[
    bool, typer.Option("--allow-import", help="import and call the module:callable that the file names")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps", metavar="TEXT")]


def input_path(name: str, value: str) -> Path:
    """Return the path of a file or folder to read; ``~`` is the home folder.

    Args:
        name: The name of the argument, for error messages.
        value: Its text. A ``Path`` would have lost a slash of ``https://``.

    Raises:
        OptionsError: It is blank.
        DataError: It is an address of another machine.
    """
    path = parse_argument(name, value)
    check_local(name, path)
    return expanded(path)


def output_path(flag: str, value: str | None) -> Path | None:
    """Return the path of a file or folder to write, or None if there is none; ``~`` is the home folder.

    Raises:
        OptionsError: It is blank, or an address of another machine.
    """
    return None if value is None else expanded(parse_output_path(flag, value))


def check_device(device: str) -> str:
    """Return a valid device name unchanged.

    Raises:
        OptionsError: ``device`` is none of auto, cpu, cuda, cuda:N, mps.
    """
    try:
        return parse_device(device)
    except ValueError:
        raise OptionsError(f"--device: got {device!r}; allowed: auto, cpu, cuda, cuda:N, mps") from None


def parse_number(flag: str, value: str, kind: Callable[[str], _Number], least: int) -> _Number:
    """Return a flag's number.

    Args:
        flag: The flag, for error messages.
        value: Its text.
        kind: ``int`` or ``float``.
        least: The smallest allowed number.

    Raises:
        OptionsError: The text is no such number.
    """
    with suppress(ValueError):
        number = kind(value)
        if number >= least:  # false for nan
            return number
    raise OptionsError(
        f"{flag}: got {shown(value)}; allowed: a {'whole ' if kind is int else ''}number, {least} or more"
    )


def read_arguments(
    signature: Callable[..., Any], argv: list[str], program: str, summary: str, allowed: str = FLAGS_ALLOWED
) -> Any:
    """Parse the arguments after a program's name.

    Args:
        signature: A function whose annotated parameters are typer's arguments and options; it is called with them.
        argv: The arguments.
        program: The program's name in ``--help``.
        summary: The program's description in ``--help``.
        allowed: The allowed arguments, for error messages.

    Returns:
        The result of ``signature``, or None if ``--help`` was given and printed.

    Raises:
        OptionsError: A flag does not exist or lacks its value, or an argument is missing or one too many.
    """
    app = typer.Typer(add_completion=False)
    app.command(help=summary)(signature)
    try:
        given = typer.main.get_command(app).main(argv, prog_name=program, standalone_mode=False)
    except typer.TyperException as error:
        raise OptionsError(_sentence(error, allowed)) from None
    except SystemExit:  # the reader of --help has closed the pipe
        return None
    return None if isinstance(given, int) else given  # typer returns the exit code of --help and --version


def _sentence(error: typer.TyperException, allowed: str) -> str:
    name = getattr(error, "option_name", None)
    message = error.format_message().rstrip(".")
    if name and message.startswith("No such option"):
        nearest = getattr(error, "possibilities", None)
        return f"there is no flag {name}; " + (
            f"did you mean {nearest[0]}?" if nearest else "see --help for all of them"
        )
    return f"{message[0].lower()}{message[1:]}; allowed: {allowed}"
