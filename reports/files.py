"""Writing a file so that a reader sees either the old one or all of the new one."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes | str) -> Path:
    """Write `data` to a temporary file in the same folder, then rename it to `path`.

    Args:
        path: Where to write; its folder is made if it is missing.
        data: Bytes, or text to be stored as UTF-8.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    """The permissions that new files do not get; mkstemp ignores it and allows only the owner."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
