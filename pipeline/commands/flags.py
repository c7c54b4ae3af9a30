"""Flags that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import OptionsError
from pipeline.options.values import parse_device

File = Annotated[Path, typer.Argument(metavar="FILE", help="an artifact", show_default=False)]
AllowImport = Annotated[
    bool, typer.Option("--allow-import", help="import and call the module:callable that the file names")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps", metavar="TEXT")]

FILE_ALLOWED = "one FILE, and the flags that --help shows"


def check_device(device: str) -> str:
    """Return a device's name.

    Raises:
        OptionsError: It has no device's form.
    """
    try:
        return parse_device(device)
    except ValueError:
        raise OptionsError(f"--device: got {device!r}; allowed: auto, cpu, cuda, cuda:N, mps") from None
