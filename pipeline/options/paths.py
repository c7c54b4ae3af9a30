"""Parse values of options that name files."""

import errno
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import ValidationInfo

from pipeline.errors import DataError, OptionsError
from pipeline.options.values import BUILTIN, flag_name, parse_text, shown

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


def parse_argument(name: str, value: object) -> str:
    """Return a path as text, as ``parse_path`` does.

    Args:
        name: The name of the flag or argument, for error messages.
        value: The path. An empty one would be the current folder; it is mostly a variable that is not set.

    Raises:
        OptionsError: It is no text, or blank.
    """
    try:
        return parse_path(value)
    except ValueError:
        raise OptionsError(f"{name}: got {shown(value)}; allowed: a path") from None


def is_address(value: str) -> bool:
    """Return True for an address of another machine: it begins like ``https://`` or ``s3://``."""
    return _ADDRESS.match(value) is not None


def check_local(flag: str, value: str) -> None:
    """Check that an option's value is no address of another machine.

    Raises:
        DataError: It begins like ``https://`` or ``s3://``.
    """
    if is_address(value):
        raise DataError(
            f"{flag}: got the address {value}, and nothing is downloaded from addresses; allowed: the path of a local "
            "copy"
        )


@contextmanager
def reading(what: str) -> Generator[None]:
    """Convert errors of the operating system to a ``DataError``, in a block that only reads an input.

    Args:
        what: The input, for the message.

    Raises:
        DataError: The input cannot be read, for example because a folder above it cannot be searched.
    """
    try:
        yield
    except OSError as error:
        inner = error.filename is not None and str(error.filename) not in what
        reason = f"{error.strerror or error}{f': {error.filename}' if inner else ''}"
        raise DataError(f"{what} cannot be read: {reason}; allowed: a path that this user may read") from error


def is_system_error(error: OSError) -> bool:
    """Return True for an error of the operating system, as of permissions; False for one of damaged content."""
    return error.errno not in (None, errno.EINVAL)  # EINVAL: a place before the beginning of the file


def parse_output_path(flag: str, value: object) -> str:
    """Return the path of a file or folder to write as text, as ``parse_path`` does.

    Raises:
        OptionsError: It is no path, or begins like ``s3://``. Written to, it would be a folder ``s3:``.
    """
    path = parse_argument(flag, value)
    if is_address(path):
        raise OptionsError(
            f"{flag}: got the address {path}, and nothing is written to addresses; allowed: a local path"
        )
    return path


def parse_folder(value: object, info: ValidationInfo) -> str:
    """Return an option's folder as text; see ``parse_output_path``."""
    return parse_output_path(flag_name(str(info.field_name)), value)


def names_checkpoint(weights: str) -> bool:
    """Return True if ``--weights`` names a file: it has a suffix or a folder, or the file exists.

    The words ``auto`` and ``builtin`` name none, so that an output folder of such a name is not taken for one.
    """
    if weights in ("auto", BUILTIN):
        return False
    return bool(Path(weights).suffix) or "/" in weights or Path(weights).exists()
