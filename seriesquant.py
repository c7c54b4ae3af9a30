"""The program and the library under a name of their own.

The packages beside this file have common names. Importing this module makes ``pipeline``, ``basis``, ``quant`` and
``reports`` the project's, even if the search path leads to other modules of these names. The names of ``pipeline``,
such as ``run`` and ``load``, can be imported from here.
"""

import signal
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent)
sys.path.insert(0, _ROOT)
try:
    from pipeline.runtime import packages
finally:
    sys.path.remove(_ROOT)
packages.install()


def install() -> None:
    """Do nothing more: the import has made the project's packages importable. Workers of a cluster call this."""


def program() -> int:
    """Run the program as the whole process; see ``pipeline.cli.program``.

    Returns:
        The exit code; that of Ctrl-C also if it comes while the command line is imported, which takes half a second.
    """
    try:
        from pipeline.cli import program as run_program

        return run_program()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def __getattr__(name: str) -> object:
    import pipeline

    return getattr(pipeline, name)


if __name__ == "__main__":
    sys.exit(program())
