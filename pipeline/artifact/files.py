"""Writing and reading artifacts on disk."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from basis.errors import CompressionError
from pipeline.artifact.codec import decode, serialize
from pipeline.artifact.container import Contents, split
from pipeline.artifact.header import Header, Identity, read_header
from pipeline.errors import DataError
from pipeline.network_record import NetworkRecord
from reports.files import write_atomically


def write_artifact(record: NetworkRecord, identity: Identity, path: Path) -> None:
    """Write an artifact atomically.

    Raises:
        OSError: The file cannot be written; what was there before is untouched.
    """
    write_atomically(path, serialize(record, identity))


def read_artifact(path: Path | str) -> tuple[NetworkRecord, Identity]:
    """Read an artifact back.

    Returns:
        The network's tensors, and what it is.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
    """
    header, contents = open_artifact(path)
    with naming(path):
        _, record = decode(contents)
    return record, identity_of(header)


def open_artifact(path: Path | str) -> tuple[Header, Contents]:
    """Read an artifact's header and, with its checksum, the sections; ``decode`` makes a network's tensors of them.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
    """
    if not Path(path).is_file():
        raise DataError(f"artifact: {path} is not a file; allowed: a file that seriesquant wrote")
    with naming(path), Path(path).open("rb") as file:
        contents = split(file)
        return read_header(contents.text), contents


def identity_of(header: Header) -> Identity:
    """What a header says of its network."""
    return Identity(**header.model_dump(exclude={"format_version", "builder", "arguments"}))


@contextmanager
def naming(path: Path | str) -> Generator[None]:
    """Turn what is wrong with a file's contents into a sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"artifact: {path} cannot be read: {error.strerror or error}") from None
    except CompressionError as error:
        raise DataError(f"artifact: {path} is damaged or no artifact: {error}") from None
