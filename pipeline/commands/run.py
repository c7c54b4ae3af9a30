"""``seriesquant run``: compress a network in every combination of the options, and report."""

import sys
from contextlib import nullcontext
from functools import partial

from pipeline.commands import Action, commands_help
from pipeline.console import print_result
from pipeline.failure import failure_reported
from pipeline.flags import read_flags
from pipeline.logs import JsonProgressLines
from pipeline.options import Options, options_from
from pipeline.progress import make_progress


def read(argv: list[str], program: str) -> Action | None:
    """Read a run's flags, and the options file that they name.

    Raises:
        OptionsError: A flag or an option is wrong, missing or unknown.
    """
    flags = read_flags(argv, Options.model_fields, program, commands_help())
    if flags is None:
        return None
    return partial(_execute, options_from(flags.values, flags.options_file), dry_run=flags.dry_run)


def _execute(options: Options, *, dry_run: bool) -> int:
    with nullcontext() if dry_run else failure_reported(options):
        from pipeline import runner  # only now: it imports torch

    if dry_run:
        print_result(runner.plan_text(options))
        return 0
    lines = JsonProgressLines() if options.log_format == "json" else None
    result = runner.run(options, progress=make_progress(sys.stderr, lines))
    print_result(f"{result.text}\n{result.report_path}")
    return result.exit_code
