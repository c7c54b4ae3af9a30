"""``seriesquant run``: compress a network in every combination of the options, and report."""

import sys
from functools import partial

from pipeline.commands import Action, commands_help
from pipeline.console import print_result
from pipeline.failure import FailureReporter
from pipeline.flags import read_flags
from pipeline.interruption import on_signals
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
    if dry_run:
        from pipeline.dry_run import plan_text  # only now: it imports torch

        print_result(plan_text(options))
        return 0
    lines = JsonProgressLines() if options.log_format == "json" else None
    with FailureReporter(options).watching():
        from pipeline import runner  # it takes seconds, in which a signal may come

    with on_signals() as interruption:
        result = runner.run(options, make_progress(sys.stderr, lines), interruption)
    print_result(f"{result.text}\n{result.report_path}")
    return result.exit_code
