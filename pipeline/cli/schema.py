"""``seriesquant schema``: the JSON Schema of report.json."""

import json

from pipeline.cli.arguments import Action, read_arguments
from pipeline.cli.output import print_result

SUMMARY = "Print the JSON Schema (draft 2020-12) of report.json, of runs that were done and of those that failed."


def read(argv: list[str], program: str) -> Action | None:
    """Read the command's words: there are none.

    Raises:
        OptionsError: There are some.
    """

    def given() -> Action:
        return _execute

    action: Action | None = read_arguments(given, argv, program, SUMMARY, "no words but --help")
    return action


def _execute() -> int:
    from reports.schema import report_schema

    print_result(json.dumps(report_schema(), indent=2))
    return 0
