"""``seriesquant cache``: list the stored results of stages, or remove them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tabulate import tabulate

from pipeline.cli.arguments import Action, output_path, parse_number, read_arguments
from pipeline.cli.output import print_result
from pipeline.errors import OptionsError
from pipeline.failure import EXIT_DONE
from reports.text import quantity

if TYPE_CHECKING:
    from pipeline.store.housekeeping import StoredFile

SUMMARY = """List the stored results of stages (ls), or remove files from the store (prune).

Without a limit, prune removes everything but the files that a run is using."""
_ACTIONS = ("ls", "prune")
_DAY = 86_400.0

What = Annotated[str, typer.Argument(metavar="ls|prune", show_default=False)]
CacheDir = Annotated[str | None, typer.Option(metavar="FOLDER", help="the store", show_default=False)]
Days = Annotated[str | None, typer.Option(metavar="DAYS", help="prune only older files", show_default=False)]
Size = Annotated[
    str | None,
    typer.Option(metavar="MB", help="prune the oldest files until this many MB are left", show_default=False),
]


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown.
    """

    def given(what: What, cache_dir: CacheDir = None, older_than_days: Days = None, keep_mb: Size = None) -> Action:
        if what not in _ACTIONS:
            raise OptionsError(f"cache: got {what!r}; allowed: {', '.join(_ACTIONS)}")
        folder = output_path("--cache-dir", cache_dir)
        if what == "ls":
            if older_than_days is not None or keep_mb is not None:
                raise OptionsError("cache ls: --older-than-days and --keep-mb are limits of prune; allowed: prune")
            return partial(_list, folder)
        days = None if older_than_days is None else parse_number("--older-than-days", older_than_days, float, 0)
        megabytes = None if keep_mb is None else parse_number("--keep-mb", keep_mb, float, 0)
        return partial(_prune, folder, days, megabytes)

    action: Action | None = read_arguments(given, argv, program, SUMMARY, "ls or prune, and the flags of --help")
    return action


def _list(chosen: Path | None) -> int:
    from pipeline.store.housekeeping import existing_store, list_store

    folder = existing_store(chosen)
    files = list_store(folder)
    rows = [(each.name, each.kind, f"{each.size / 1e6:.3f}", _age(each.age), each.path.name) for each in files]
    if rows:
        align = ("left", "left", "right", "right", "left")
        heads = ("Stage", "Kind", "MB", "Age", "File")
        print_result(tabulate(rows, heads, disable_numparse=True, colalign=align))
    print_result(f"{_total(files)} in {_named(folder)}")
    return EXIT_DONE


def _prune(chosen: Path | None, days: float | None, megabytes: float | None) -> int:
    from pipeline.store.housekeeping import existing_store, list_store, prune_store

    folder = existing_store(chosen)
    removed, used = prune_store(_superfluous(list_store(folder), days, megabytes))
    print_result(f"removed {_total(removed)} from {_named(folder)}")
    if used:
        print_result(f"kept {_total(used)}: in use by a run")
    return EXIT_DONE


def _superfluous(files: Sequence["StoredFile"], days: float | None, megabytes: float | None) -> list["StoredFile"]:
    """Return the files beyond the limits, from files in the order of their age, oldest first; all without a limit."""
    if days is None and megabytes is None:
        return list(files)
    over = sum(each.size for each in files) - (megabytes if megabytes is not None else float("inf")) * 1e6
    chosen = []
    for each in files:
        if over > 0 or (days is not None and each.age > days * _DAY):
            chosen.append(each)
            over -= each.size
    return chosen


def _total(files: Sequence["StoredFile"]) -> str:
    return f"{quantity(len(files), 'file')}, {sum(each.size for each in files) / 1e6:.3f} MB,"


def _named(folder: Path) -> str:
    return str(folder) if folder.exists() else f"{folder}, which no run has made yet"


def _age(seconds: float) -> str:
    for unit, length in (("d", _DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
