"""``seriesquant export``: an artifact as an ONNX file, or as a state dict for PyTorch code of your own."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.arguments import read_arguments
from pipeline.commands import Action
from pipeline.console import print_result
from pipeline.errors import OptionsError

SUMMARY = """Write an artifact's network in another format.

onnx: packed integers that any runtime with opset 21 turns into filters. torch: the dense float32 state dict, in
safetensors, for load_state_dict of the original architecture."""
SUFFIXES: Final = {"onnx": ".onnx", "torch": ".state_dict.safetensors"}
_MATERIALIZED = ".float32.onnx"


@dataclass(frozen=True)
class Export:
    """What is to be written where.

    Attributes:
        file: The artifact.
        format: A key of ``SUFFIXES``.
        materialize: Whether an ONNX file gets plain float32 weights.
        out: The file to write.
        allow_import: Whether the artifact may name a ``module:callable`` to import.
    """

    file: Path
    format: str
    materialize: bool
    out: Path
    allow_import: bool


def read(argv: list[str], program: str) -> Action | None:
    """Read an export's words.

    Raises:
        OptionsError: A word is wrong or missing, or the output would replace the artifact.
    """
    export = read_arguments(_export, argv, program, SUMMARY, "FILE, --format onnx or torch, and the flags of --help")
    return None if export is None else partial(_execute, export)


def _export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="the artifact")],
    format: Annotated[str, typer.Option(metavar="|".join(SUFFIXES), help="what to write (required)")],
    materialize: Annotated[
        bool, typer.Option("--materialize", help="plain float32 weights, for runtimes without INT4 (torch always is)")
    ] = False,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="default: beside FILE, with another suffix")] = None,
    allow_import: Annotated[
        bool, typer.Option("--allow-import", help="import the module:callable that FILE names")
    ] = False,
) -> Export:
    if format not in SUFFIXES:
        raise OptionsError(f"export: format {format!r} is unknown; allowed: {', '.join(SUFFIXES)}")
    suffix = _MATERIALIZED if materialize and format == "onnx" else SUFFIXES[format]
    path = Path(file).with_suffix(suffix) if out is None else Path(out)
    if path.resolve() == Path(file).resolve():
        raise OptionsError(f"export: --out {path} is the artifact itself; allowed: any other file")
    return Export(Path(file), format, materialize, path, allow_import)


def _execute(export: Export) -> int:
    from pipeline import exports  # only now: it imports torch

    if export.format == "torch":
        print_result(exports.export_torch(export.file, export.out, allow_import=export.allow_import))
    else:
        options = {"materialize": export.materialize, "allow_import": export.allow_import}
        print_result(exports.export_onnx(export.file, export.out, **options))
    return 0
