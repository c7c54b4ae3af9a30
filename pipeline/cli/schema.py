"""``seriesquant schema``: print the JSON Schema of report.json."""

import json

from pipeline.cli.arguments import Action, read_arguments
from pipeline.cli.output import print_result
from pipeline.failure import EXIT_DONE

SUMMARY = "Print the JSON Schema (draft 2020-12) of report.json, for finished and failed runs."


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments, of which there are none.

    Raises:
        OptionsError: An argument was given.
    """

    def given() -> Action:
        return _execute

    action: Action | None = read_arguments(given, argv, program, SUMMARY, "no words but --help")
    return action


def _execute() -> int:
    from reports.schema import report_schema

    print_result(json.dumps(report_schema(), indent=2))
    return EXIT_DONE
