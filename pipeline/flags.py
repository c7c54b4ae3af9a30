"""The command line's grammar: one flag per option, and two that are no options of a run."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic.fields import FieldInfo

from pipeline.arguments import read_arguments
from pipeline.options.values import flag_name

SUMMARY = """Compress a trained CNN by series approximation and quantization, and report what it cost.

Example: --bits 4 --config 6,3,3,2,2 compresses ResNet-18 on the embedded digits. Exit codes: 0 done, 1 internal error,
2 wrong options, 3 a gate missed, 4 data or weights missing or damaged, 130 or 143 interrupted."""
_METAVARS = {"config": "ORDERS", "out": "FOLDER"} | dict.fromkeys(("bits", "dense_bits", "basis", "track"), "LIST")


@dataclass(frozen=True)
class Flags:
    """A command line as it was written.

    Attributes:
        values: Option name -> text (a list of texts for ``config``, a bool for switches), for the flags given.
        options_file: The file named by ``--options``, or None.
        dry_run: Whether only the plan is wanted.
    """

    values: dict[str, object]
    options_file: Path | None
    dry_run: bool


def read_flags(
    argv: list[str], fields: Mapping[str, FieldInfo], program: str = "seriesquant", commands: str = ""
) -> Flags | None:
    """Split a command line into flags; the values stay text, because the options check them all at once.

    Args:
        argv: The words after the program's name.
        fields: Every option's name and field, which carries its help.
        program: The program's name in ``--help``.
        commands: What ``--help`` says of the program's commands.

    Returns:
        The flags, or None when ``--help`` was asked for and has been printed.

    Raises:
        OptionsError: A flag does not exist or lacks its value, or a word belongs to no flag.
    """
    given = read_arguments(_signature(fields), argv, program, f"{SUMMARY}\n\n{commands}")
    if given is None:
        return None
    values = {name: value for name, value in given.items() if name in fields and value not in (None, [])}
    file = given["options"]
    return Flags(values, Path(file) if file is not None else None, bool(given["dry_run"]))


def _signature(fields: Mapping[str, FieldInfo]) -> Callable[..., dict[str, object]]:
    """A function for typer whose signature is the table of options."""

    def collect(**given: object) -> dict[str, object]:
        return given

    parameters = [_parameter(name, field) for name, field in fields.items()]
    parameters += [
        _keyword(
            "options", str | None, help="YAML or TOML file of options; flags win over it", metavar="FILE", panel="Run"
        ),
        _keyword("dry_run", bool | None, "--dry-run", help="print the plan and stop", panel="Run"),
    ]
    command = cast(Any, collect)
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return collect


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra, flag = cast(dict[str, str], field.json_schema_extra), flag_name(name)
    about = {"help": f"{field.description}{_default(field)}", "panel": extra["panel"]}
    if field.annotation is bool:
        return _keyword(name, bool | None, f"{flag}/--no-{name}" if field.default else flag, **about)
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
        return " (required)"
    if default in (None, False, ()):
        return ""
    if default is True:
        return " (default yes)"
    return f" (default {','.join(map(str, default)) if isinstance(default, tuple) else default})"
