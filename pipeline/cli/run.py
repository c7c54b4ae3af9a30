"""``seriesquant run``: compress a network in every combination of the options, and write the report."""

import sys
from functools import partial

from pipeline.cli.arguments import Action, commands_help, read_flags
from pipeline.cli.output import JsonProgressLines, print_result
from pipeline.failure import EXIT_DONE, FailureReporter
from pipeline.options.options import Options, options_from
from pipeline.runtime.imports import import_libraries
from pipeline.runtime.launcher import launched
from pipeline.runtime.progress import make_progress
from pipeline.runtime.signals import on_signals
from pipeline.runtime.threads import thread_count


def read(argv: list[str], program: str) -> Action | None:
    """Parse a run's flags, and read the options file that they name.

    Raises:
        OptionsError: A flag or an option is wrong, missing or unknown.
    """
    flags = read_flags(argv, Options.model_fields, program, commands_help())
    if flags is None:
        return None
    return partial(_execute, options_from(flags.values, flags.options_file), dry_run=flags.dry_run)


def _execute(options: Options, *, dry_run: bool) -> int:
    if not dry_run:
        with FailureReporter(options).watching():
            _import_for(options.model)  # this takes seconds, in which a signal may arrive
    from pipeline.runtime.processes import exit_barrier  # only now: it imports torch

    with exit_barrier():
        return _plan(options) if dry_run else _run(options)


def _import_for(model: str) -> None:
    import_libraries("pipeline.runner")
    from pipeline.models.cifar_resnet import BUILDERS

    if ":" not in model and model not in BUILDERS:
        import_libraries("torchvision.models")


def _plan(options: Options) -> int:
    from pipeline.stages.dry_run import plan_text

    with thread_count(options.threads):
        print_result(plan_text(options))
    return EXIT_DONE


def _run(options: Options) -> int:
    from pipeline import runner

    lines = JsonProgressLines() if options.log_format == "json" else None
    progress = make_progress(sys.stderr, lines) if launched().is_main else None
    with on_signals() as interruption:
        result = runner.run(options, progress, interruption)
    print_result(f"{result.text}\n{result.report_path}")
    return result.exit_code
