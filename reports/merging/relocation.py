"""Where a report in another folder finds the files that a run's report names: at their place, or as copies."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Protocol

from reports.files import write_atomically
from reports.merging.reading import ReportError, Source
from reports.rows import Report, Row

FILES = ("artifact", "onnx")
"""The fields of a row that name files."""


class Place(Protocol):
    """Says where a merged report finds a file of a run."""

    def __call__(self, source: Source, file: str | None, sha256: str | None = None) -> str | None:
        """The path from the report's folder, with forward slashes; None for a file that there is not."""


def relocated(report: Report, runs: Mapping[str, Source], place: Place, folder: Path) -> dict[str, Any]:
    """The report as another folder holds it, with the paths of its files as they are seen from there.

    Args:
        report: Of one run, or of several by `reports.merging.merge`.
        runs: The runs by name.
        place: Where a file of a run is found.
        folder: The other folder.
    """
    first = next(iter(runs.values()))
    moved = {
        **report,
        "run": {**report["run"], "out": str(folder)},
        "baseline": _placed(report["baseline"], first, place),
        "rows": [_placed(row, runs[row["runs"][0]] if "runs" in row else first, place) for row in report["rows"]],
    }
    if "sources" in report:
        named = [(source, runs[source["name"]]) for source in report["sources"]]
        moved["sources"] = [{**each, "baseline": _placed(each["baseline"], run, place)} for each, run in named]
    return moved


def _placed(row: Row, source: Source, place: Place) -> dict[str, Any]:
    digests = {"artifact": row.get("sha256")}
    return {**row, **{name: place(source, row[name], digests.get(name)) for name in FILES if name in row}}


class Linked:
    """Leaves the files where they are: the report names them by relative paths.

    Args:
        folder: The report's folder.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the folder."""
        self._folder = folder

    def __call__(self, source: Source, file: str | None, sha256: str | None = None) -> str | None:
        """The relative path from the report's folder to the file."""
        return None if file is None else relative(source.folder / file, self._folder)


class Copied:
    """Copies the files into `artifacts/` of the report's folder, those of each run into a folder of its own.

    Args:
        folder: The report's folder.
    """

    def __init__(self, folder: Path) -> None:
        """Copy nothing yet."""
        self._folder = folder
        self._names: dict[Path, str] = {}

    def __call__(self, source: Source, file: str | None, sha256: str | None = None) -> str | None:
        """Copy the file.

        Raises:
            ReportError: It is missing, or is not the file that was reported.
        """
        if file is None:
            return None
        target = Path("artifacts") / self._name(source.path) / PurePath(file).name
        write_atomically(self._folder / target, _content(source.folder / file, sha256))
        return target.as_posix()

    def _name(self, run: Path) -> str:
        """The run's name as a folder, with a number where two runs have the same."""
        if run not in self._names:
            plain = re.sub(r"[^\w.,-]+", "-", run.resolve().name) or "run"
            taken = set(self._names.values())
            numbered = (f"{plain}-{number}" for number in range(2, len(taken) + 3))
            self._names[run] = plain if plain not in taken else next(n for n in numbered if n not in taken)
        return self._names[run]


def relative(path: Path, folder: Path) -> str:
    """The path from a folder to a file or folder, with forward slashes."""
    return PurePath(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def missing_files(report: Report, folder: Path) -> list[str]:
    """The files that the report names and that are not there."""
    named: list[tuple[Mapping[str, Any], str]] = [(report["baseline"], "artifact")]
    named += [(row, name) for row in report["rows"] for name in FILES]
    files = dict.fromkeys(each[name] for each, name in named if each.get(name))
    # Normalized, because a folder that is still to be written cannot be left by `..`.
    return [file for file in files if not Path(os.path.normpath(folder.resolve() / file)).is_file()]


def _content(path: Path, sha256: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"report: {path} cannot be copied: {error.strerror}; allowed: without --copy") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ReportError(f"report: {path} is not the file that was reported (SHA-256 {sha256}); allowed: that file")
    return content
