"""``seriesquant verify``: check an artifact's checksums and values, and its tensors against its network."""

import hashlib
from functools import partial
from pathlib import Path

from pipeline.cli.arguments import FILE_ALLOWED, Action, AllowImport, File, input_path, read_arguments
from pipeline.cli.output import print_result
from pipeline.failure import EXIT_DATA, EXIT_DONE
from pipeline.runtime.imports import import_libraries

SUMMARY = f"""Check an artifact: its checksums, every value, and its tensors against the network that it names.

A network named module:callable is built only with --allow-import. Exit code {EXIT_DATA} if a check fails."""


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown.
    """

    def given(file: File, allow_import: AllowImport = False) -> Action:
        return partial(_execute, input_path("FILE", file), allow_import=allow_import)

    action: Action | None = read_arguments(given, argv, program, SUMMARY, FILE_ALLOWED)
    return action


def _execute(file: Path, *, allow_import: bool) -> int:
    import_libraries("pipeline.artifact.loading", "pipeline.artifact.summary")  # only now: it imports torch
    from pipeline.artifact.header import OBJECT
    from pipeline.artifact.loading import architecture
    from pipeline.artifact.summary import summarize

    summary = summarize(file)
    model = summary.header.model
    if summary.header.builder == OBJECT:
        network = f"not compared with {model}, which only its owner can build"
    elif ":" in model and not allow_import:
        network = f"not compared with {model}, which only --allow-import imports"
    else:
        architecture(summary.header, summary.record, allow_import=allow_import)
        network = f"as in {model}"
    tensors = len(summary.record.shapes())
    print_result(
        f"{file}: whole; {summary.size} bytes, {len(summary.layers)} layers in few bits, {tensors} tensors {network}, "
        f"SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    )
    return EXIT_DONE
