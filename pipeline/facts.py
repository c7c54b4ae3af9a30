"""What every report says of its run from the first moment on, whether it ends well or not."""

from typing import Any

from pipeline.environment import git_commit, hardware, library_versions
from pipeline.options import Options
from reports.model import SCHEMA_VERSION

__all__ = ["SCHEMA_VERSION", "run_facts"]


def run_facts(command: str, options: Options | None) -> dict[str, Any]:
    """The report's ``run``, with None for what only the stages find out.

    Args:
        command: The command line that repeats the run.
        options: The run's options; None where they could not be read.
    """
    return {
        "command": command,
        "model": options.model if options else None,
        "weights": None,
        "dataset": None,
        "seed": options.seed if options else None,
        "device": None,
        "precision": None,
        "processes": 1,
        "hardware": hardware(),
        "git_commit": git_commit(),
        "versions": library_versions(),
        "options": options.model_dump(mode="json") if options else None,
        "out": str(options.out) if options else None,
        "calibration_images": None,
        "stages": [],
        "duration_s": None,
    }
