"""``seriesquant run``: compress a network in every combination of the options, and report."""

import sys
from functools import partial

from pipeline.commands import Action, commands_help
from pipeline.console import print_result
from pipeline.flags import read_flags
from pipeline.launcher import launched
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
    from pipeline import runner  # only now: it imports torch
    from pipeline.processes import leaving_together

    if dry_run:
        print_result(runner.plan_text(options))
        return 0
    with leaving_together():
        progress = make_progress(sys.stderr) if launched().is_main else None
        result = runner.run(options, progress)
        print_result(f"{result.text}\n{result.report_path}")
    return result.exit_code
