"""The program: find the command, do what it asks for, turn what went wrong into an exit code."""

import logging
import sys
import traceback
from pathlib import Path
from typing import TextIO

from basis.errors import CompressionError
from pipeline.commands import read_command_line
from pipeline.errors import BusyError, ClusterError, LostProcessError, OptionsError
from pipeline.interruption import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, on_signals
from pipeline.launcher import is_told, leave_others, speaker
from pipeline.options import PROGRAM

EXIT_INTERNAL, EXIT_OPTIONS, EXIT_DATA = 1, 2, 4
_RESUME = "to go on from the last checkpoint, run the same command again"
_OUR_LOGGERS = ("basis", "pipeline", "quant", "reports")


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: The words after the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 1 internal error, 2 wrong options, 3 ``--max-drop`` missed, 4 data or weights missing or
        damaged, 130 or 143 interrupted.
    """
    _log_to_stderr()
    code = _exit_code(sys.argv[1:] if argv is None else argv)
    if code:
        leave_others(code)
    return code


def _exit_code(argv: list[str]) -> int:
    try:
        with on_signals():
            return _run(argv)
    except OptionsError as error:
        return _fail(str(error), EXIT_OPTIONS)
    except (BusyError, ClusterError, LostProcessError) as error:
        return _fail(str(error), EXIT_INTERNAL)
    except CompressionError as error:
        return _fail(str(error), EXIT_DATA)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {_RESUME}", EXIT_INTERRUPTED)
    except Terminated:
        return _fail(f"terminated; {_RESUME}", EXIT_TERMINATED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", EXIT_INTERNAL)
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL


def _run(argv: list[str]) -> int:
    action = read_command_line(argv, _program())
    return 0 if action is None else action()


def _fail(sentence: str, code: int) -> int:
    if not is_told(sys.exception()):
        print(f"{speaker()}error: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _program() -> str:
    return " ".join(PROGRAM) if Path(sys.argv[0]).name == PROGRAM[-1] else "seriesquant"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at the time: progress bars replace it while they are drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _log_to_stderr() -> None:
    others, ours = (logging.ERROR, logging.ERROR) if speaker() else (logging.WARNING, logging.INFO)
    logging.basicConfig(level=others, format="%(message)s", handlers=[_StderrHandler()], force=True)
    for name in _OUR_LOGGERS:
        logging.getLogger(name).setLevel(ours)
