"""``seriesquant poster``: the poster's tables beside the figures of runs."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.arguments import Action, input_path, output_path, read_arguments
from pipeline.cli.output import print_result
from pipeline.errors import DataError, OptionsError
from pipeline.failure import EXIT_DATA, EXIT_DONE, EXIT_OPTIONS

if TYPE_CHECKING:
    from reports.merging.reading import Source

logger = logging.getLogger(__name__)

SUMMARY = f"""Print the poster's three tables: each printed figure beside the one that the runs measured.

A figure that no RUN measured is an empty cell, with the command that fills it; without a RUN all are. Rows of other
settings are lines of their own. Exit codes: {EXIT_OPTIONS} two runs with equal settings that differ in a figure;
{EXIT_DATA} a report that is missing, damaged, or of a run that failed."""
ALLOWED = "RUN folders or report.json files, and the flags that --help shows"

Runs = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN...]", help="output folders of runs", show_default=False)
]
Out = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="where to write poster.md; else to stdout", show_default=False)
]


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong or unknown.
    """

    def given(runs: Runs = None, out: Out = None) -> Action:
        return partial(_execute, [input_path("RUN", run) for run in runs or []], output_path("--out", out))

    action: Action | None = read_arguments(given, argv, program, SUMMARY, ALLOWED)
    return action


def _execute(places: list[Path], out: Path | None) -> int:
    from reports.files import check_writable, write_atomically  # only now: numpy and pydantic
    from reports.merging.reading import ReportError
    from reports.poster.measured import PosterError
    from reports.poster.page import FILE, poster_page

    if out is not None:
        check_writable(out, f"poster: the folder {out}")
    try:
        page = poster_page(_sources(places))
    except ReportError as error:
        raise DataError(f"poster: {error}") from None
    except PosterError as error:
        raise OptionsError(str(error)) from None
    print_result(page.rstrip("\n") if out is None else str(write_atomically(out / FILE, page)))
    return EXIT_DONE


def _sources(places: list[Path]) -> "list[Source]":
    """Return the runs that belong beside the poster's figures, each once; log the others."""
    from reports.merging.reading import read_report, runs_of
    from reports.poster.measured import reason_for_counts_alone, unused_reason

    used = []
    for run in runs_of([(place, read_report(place)) for place in places]):
        if reason := unused_reason(run):
            logger.warning("%s fills no cell: %s", run.path, reason)
            continue
        used.append(run)
        if reason := reason_for_counts_alone(run):
            logger.warning("%s fills only the numbers of parameters: %s", run.path, reason)
    return used
