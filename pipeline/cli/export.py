"""``seriesquant export``: write an artifact as an ONNX file, or as a state dict for PyTorch."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.cli.arguments import FILE_ALLOWED, Action, AllowImport, File, input_path, output_path, read_arguments
from pipeline.cli.output import print_result
from pipeline.errors import OptionsError
from pipeline.failure import EXIT_DONE
from pipeline.runtime.imports import import_libraries

SUMMARY = """Write an artifact's network in another format.

onnx: packed integers from which any runtime with opset 21 rebuilds the filters. torch: the dense state dict in
float32, as safetensors, for load_state_dict of the original architecture."""

SUFFIXES: Final = {"onnx": ".onnx", "torch": ".state_dict.safetensors"}
_MATERIALIZED = ".float32.onnx"

Format = Annotated[str, typer.Option(metavar="|".join(SUFFIXES), help="format to write")]
Materialize = Annotated[
    bool, typer.Option("--materialize", help="plain float32 weights in onnx, for runtimes without INT4")
]
Out = Annotated[str | None, typer.Option(metavar="PATH", help="default: beside FILE, with another suffix")]


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown, or the output is a folder or the artifact.
    """

    def given(
        file: File, format: Format, materialize: Materialize = False, out: Out = None, allow_import: AllowImport = False
    ) -> Action:
        artifact = input_path("FILE", file)
        path = _out(artifact, format, output_path("--out", out), materialize=materialize)
        return partial(_execute, artifact, format, path, materialize=materialize, allow_import=allow_import)

    action: Action | None = read_arguments(given, argv, program, SUMMARY, FILE_ALLOWED)
    return action


def _out(file: Path, format: str, out: Path | None, *, materialize: bool) -> Path:
    if format not in SUFFIXES:
        raise OptionsError(f"--format: got {format!r}; allowed: {', '.join(SUFFIXES)}")
    if materialize and format != "onnx":
        raise OptionsError(
            f"--materialize: got --format {format}, which always has float32 weights; allowed: with onnx"
        )
    suffix = _MATERIALIZED if materialize else SUFFIXES[format]
    path = file.with_suffix(suffix) if out is None else out
    if os.path.realpath(path) == os.path.realpath(file):  # resolve() raises for a link to itself
        raise OptionsError(f"--out: {path} is the artifact itself; allowed: any other file")
    if path.is_dir():
        raise OptionsError(f"--out: {path} is a folder; allowed: a file")
    return path


def _execute(file: Path, format: str, out: Path, *, materialize: bool, allow_import: bool) -> int:
    import_libraries("pipeline.stages.export")  # only now: it imports torch
    from pipeline.stages import export as exports

    if format == "torch":
        print_result(exports.export_torch(file, out, allow_import=allow_import))
    else:
        print_result(exports.export_onnx(file, out, materialize=materialize, allow_import=allow_import))
    return EXIT_DONE
