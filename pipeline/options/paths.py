"""Parse values of options that name files."""

import re
from pathlib import Path
from typing import Final

from pipeline.errors import DataError
from pipeline.options.values import parse_text

_ADDRESS: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def parse_path(value: object) -> str:
    """Return a path as text, with the home folder in place of ``~``: shells leave it in ``--out=~/runs``.

    Raises:
        ValueError: As ``parse_text``.
    """
    text = parse_text(value)
    return str(expanded(text)) if text.startswith("~") else text


def expanded(path: str) -> Path:
    """Return a path with the home folder in place of ``~`` or ``~name``, if there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_local(flag: str, value: str) -> None:
    """Check that an option's value is no address of another machine.

    Raises:
        DataError: It begins like ``https://`` or ``s3://``.
    """
    if _ADDRESS.match(value):
        raise DataError(
            f"{flag}: got the address {value}, and nothing is downloaded from addresses; allowed: the path of a local "
            "copy"
        )


def names_checkpoint(weights: str) -> bool:
    """Return True if ``--weights`` names a file: it has a suffix or a folder, or the file exists."""
    return bool(Path(weights).suffix) or "/" in weights or Path(weights).exists()
