"""Paths of a run's files in a report in another folder: links to the files, or copies of them."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Protocol

from reports.files import write_atomically
from reports.merging.reading import ReportError, Source
from reports.model import Baseline, Report, Row
from reports.rows import baseline


class Place(Protocol):
    """Function that locates a file of a run for a merged report."""

    def __call__(self, source: Source, file: str | None, sha256: str | None = None) -> str | None:
        """Return the path from the report's folder, with forward slashes; None for None."""


def relocated(report: Report, runs: Mapping[str, Source], place: Place, folder: Path) -> Report:
    """Return the report for another folder, with the paths of its files relative to that folder.

    Args:
        report: Report of one run, or of several runs from ``reports.merging.merge``.
        runs: The runs by name.
        place: Function that locates a file of a run.
        folder: The other folder.

    Raises:
        ReportError: ``place`` cannot locate a file.
    """
    first = next(iter(runs.values()))
    sources = report.sources and [
        source.model_copy(update={"baseline": _placed_baseline(source.baseline, runs[source.name], place)})
        for source in report.sources
    ]
    return report.model_copy(
        update={
            "run": report.run.model_copy(update={"out": str(folder)}),
            "baseline": _placed_baseline(baseline(report), first, place),
            "rows": [_placed_row(row, runs[row.runs[0]] if row.runs else first, place) for row in report.rows],
            "sources": sources,
        }
    )


def _placed_baseline(own: Baseline, source: Source, place: Place) -> Baseline:
    return own.model_copy(update={"artifact": place(source, own.artifact)})


def _placed_row(row: Row, source: Source, place: Place) -> Row:
    artifact, onnx = place(source, row.artifact, row.sha256), place(source, row.onnx)
    return row.model_copy(update={"artifact": artifact, "onnx": onnx})


class Linked:
    """Leaves the files in their folders; the report names them by relative paths.

    Args:
        folder: The report's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, source: Source, file: str | None, sha256: str | None = None) -> str | None:
        """Return the relative path from the report's folder to the file."""
        return None if file is None else relative(source.folder / file, self._folder)


class Copied:
    """Copies the files into ``artifacts/`` of the report's folder, with one subfolder per run.

    A run whose files an earlier merge has copied there keeps its subfolder, in whatever order the runs are now.

    Args:
        folder: The report's folder.
        runs: The runs.
    """

    def __init__(self, folder: Path, runs: Iterable[Source]) -> None:
        self._folder = folder
        self._names = {run.path: name for run in runs if (name := self._subfolder(run)) is not None}

    def __call__(self, source: Source, file: str | None, sha256: str | None = None) -> str | None:
        """Copy the file.

        Raises:
            ReportError: The file is missing, or its SHA-256 differs from the report's.
        """
        if file is None:
            return None
        target = Path("artifacts") / self._name(source.path) / PurePath(file).name
        write_atomically(self._folder / target, _content(source.folder / file, sha256))
        return target.as_posix()

    def _subfolder(self, run: Source) -> str | None:
        """Return the subfolder that holds the files of a run; None if they are elsewhere."""
        folder = (run.folder / (run.baseline.artifact or "")).parent
        return folder.name if folder.parent.resolve() == (self._folder / "artifacts").resolve() else None

    def _name(self, run: Path) -> str:
        """Return the run's name as a folder name, with a number if another run has the same name."""
        if run not in self._names:
            plain = re.sub(r"[^\w.,-]+", "-", run.resolve().name) or "run"
            taken = set(self._names.values())
            numbered = (f"{plain}-{number}" for number in range(2, len(taken) + 3))
            self._names[run] = plain if plain not in taken else next(n for n in numbered if n not in taken)
        return self._names[run]


def relative(path: Path, folder: Path) -> str:
    """Return the path from a folder to a file or folder, with forward slashes."""
    return PurePath(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def missing_files(report: Report, folder: Path) -> list[str]:
    """Return the files that the report names and that do not exist."""
    named = [baseline(report).artifact, *(file for row in report.rows for file in (row.artifact, row.onnx))]
    files = dict.fromkeys(file for file in named if file)
    # Normalized, because `..` cannot leave a folder that does not exist yet.
    return [file for file in files if not Path(os.path.normpath(folder.resolve() / file)).is_file()]


def _content(path: Path, sha256: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path} cannot be copied: {error.strerror}; allowed: without --copy") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ReportError(f"{path} is not the file that was reported (SHA-256 {sha256}); allowed: that file")
    return content
