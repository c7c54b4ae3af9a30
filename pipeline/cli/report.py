"""``seriesquant report``: merge the reports of several runs."""

import logging
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.arguments import Action, input_path, output_path, read_arguments
from pipeline.cli.output import print_result
from pipeline.errors import DataError, OptionsError
from pipeline.failure import EXIT_CODES, EXIT_DATA, EXIT_GATE, EXIT_OPTIONS, FOLDER_LOCK
from pipeline.options.values import require_utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reports.merging.reading import Source
    from reports.model import Report
    from reports.run import Run

logger = logging.getLogger(__name__)

SUMMARY = f"""Merge the reports of runs of one network and data set into one: rows, layers, tables and plots.

Runs may differ in everything else, and every row is then labelled with the settings in which its run differs; of
several seeds there is a table of mean and spread. An artifact that two runs made alike is one row. With one RUN its
report is rendered again. Exit codes: {EXIT_OPTIONS} runs that do not belong together; {EXIT_GATE}
{EXIT_CODES[EXIT_GATE]}; {EXIT_DATA} a report that is missing, damaged, or of a run that failed."""
ALLOWED = "one or more RUN folders, and the flags that --help shows"

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="output folders of runs", show_default=False)]
Out = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="where to write; with one RUN its own folder", show_default=False)
]
Copy = Annotated[bool, typer.Option("--copy", help="copy the artifacts into FOLDER; else it names them where they are")]


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown.
    """

    def given(runs: Runs, out: Out = None, copy: Copy = False) -> Action:
        if out is None and (len(runs) > 1 or copy):
            raise OptionsError("--out: is missing; allowed: a folder, which only one RUN without --copy may leave out")
        return partial(_execute, [input_path("RUN", run) for run in runs], output_path("--out", out), copy=copy)

    action: Action | None = read_arguments(given, argv, program, SUMMARY, ALLOWED)
    return action


def _execute(places: list[Path], out: Path | None, *, copy: bool) -> int:
    from reports import result_table, write_report  # only now: numpy and matplotlib
    from reports.merging.merge import MergeError
    from reports.merging.reading import ReportError, report_file
    from reports.merging.relocation import missing_files

    try:
        folder = report_file(places[0]).parent if out is None else out
        report = _report(places, folder, copy=copy)
    except ReportError as error:
        raise DataError(f"report: {error}") from None
    except MergeError as error:
        raise OptionsError(f"report: {error}") from None
    if missing := missing_files(report, folder):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        logger.warning("the report names files that do not exist: %s%s", missing[0], more)
    print_result(f"{result_table(report)}\n{write_report(report, folder)}")
    return report.gate.exit_code


def _report(places: list[Path], folder: Path, *, copy: bool) -> "Report":
    """Return the report to write into the folder.

    Raises:
        OSError: The folder cannot be written.
    """
    from reports.files import check_writable
    from reports.merging.merge import merge
    from reports.merging.reading import read_report, runs_of
    from reports.merging.relocation import Copied, Linked, relative, relocated

    read = [(place, read_report(place)) for place in places]
    check_writable(folder, f"report: the folder {folder}")
    runs = {relative(run.path, folder): run for run in runs_of(read)}
    first = read[0][1]
    alone, merged = len(places) == 1, first.sources is not None
    if alone and _is_folder_of(folder, places[0]) and not (merged and copy):
        return first
    require_utf8("--out", folder)
    for name in (*places, *runs):  # the report holds them
        require_utf8("RUN", name)
    _check_folder(folder, runs)
    if not alone or merged:
        first = merge(runs, first.run.command if alone else _command(places, folder, copy=copy))
    return relocated(first, runs, Copied(folder, runs.values()) if copy else Linked(folder), folder)


def _check_folder(folder: Path, runs: "Mapping[str, Source]") -> None:
    """Refuse to overwrite the report of a run, which could not be restored, unless a copy of it is merged again.

    Raises:
        OptionsError: The folder holds the report of a run, which may be unfinished or have failed.
    """
    from reports.merging.reading import ReportError, read_report, report_file

    try:
        there = read_report(folder)
    except ReportError:
        file = next((each for each in (report_file(folder), folder / FOLDER_LOCK) if each.exists()), None)
        if file is None:
            return
        raise OptionsError(
            f"--out: {folder} has the file {file.name} of a run that is not done, or a damaged report; allowed: "
            "another folder, or the folder of a merged report"
        ) from None
    own = any(_is_folder_of(folder, folder / run) for run in runs)
    again = not own and any(_without_out(run.run) == _without_out(there.run) for run in runs.values())
    if there.sources is None and not again:
        raise OptionsError(
            f"--out: {folder} is the folder of a run; allowed: another folder, or the folder of a merged report"
        )


def _without_out(run: "Run") -> "Run":
    return run.model_copy(update={"out": None})


def _is_folder_of(folder: Path, place: Path) -> bool:
    from reports.merging.reading import report_file

    return folder.resolve() == report_file(place).parent.resolve()


def _command(places: list[Path], folder: Path, *, copy: bool) -> str:
    words = ["seriesquant", "report", *map(str, places), "--out", str(folder)]
    return shlex.join([*words, "--copy"] if copy else words)
