"""The command line: from arguments to an exit code."""

from pipeline.cli.entry import main, program

__all__ = ["main", "program"]
