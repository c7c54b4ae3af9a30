"""Atomic writing of files: a reader sees either the old file or the complete new one."""

import errno
import os
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

PART: Final = ".seriesquant-part"
"""Suffix of a file or folder that is being written; no file of a user has it."""
_KEPT: Final = 50
"""Characters of a file's name in that of its temporary file: systems limit names to 255 bytes, 4 a character."""


def check_writable(folder: Path, what: str) -> None:
    """Check that files can be made in a folder; if it is missing, in the nearest folder above it. Change nothing.

    Args:
        folder: The folder.
        what: The output, for the message.

    Raises:
        OSError: They cannot, because of permissions, of the file system, or of a file in the place of a folder.
    """
    try:
        place = Path(os.path.realpath(folder))
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place.name} is a file")
        with TemporaryFile(dir=place):  # on some file systems, permissions do not decide
            pass
    except OSError as error:
        raise OSError(f"{what} cannot be written: {error.strerror}; allowed: another --out") from error


def write_atomically(path: Path, data: bytes | str) -> Path:
    """Write ``data`` to a temporary file in the same folder, then rename it to ``path``.

    A link stays, and the file that it leads to is replaced. A device or a named pipe cannot be replaced: it is written
    to directly.

    Args:
        path: The file to write; its folder is created if it is missing.
        data: Bytes, or text to be stored as UTF-8.

    Returns:
        ``path``.

    Raises:
        OSError: The file cannot be written; the old file is then unchanged.
    """
    content = data.encode() if isinstance(data, str) else data
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(content)
        return path
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:_KEPT]}.{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk names no file, and a read-only folder the temporary one
        raise
    return path


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files and folders that killed processes left in a folder.

    No other process may be writing there. Subfolders are not entered: another process may write in them.
    """
    for part in list(folder.glob(f".*{PART}")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)
