"""The program: find the command, do what it asks for, turn what went wrong into an exit code."""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from basis.errors import CompressionError
from pipeline.commands import read_command_line
from pipeline.errors import LostProcessError, OptionsError
from pipeline.launcher import is_told, speaker
from pipeline.options import PROGRAM

EXIT_INTERNAL, EXIT_OPTIONS, EXIT_DATA, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 4, 130, 143
_OUR_LOGGERS = ("basis", "pipeline", "quant", "reports")


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: The words after the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 1 internal error, 2 wrong options, 3 ``--max-drop`` missed, 4 data or weights missing or
        damaged, 130 or 143 interrupted.
    """
    _log_to_stderr()
    try:
        with _raising_on_sigterm():
            return _run(sys.argv[1:] if argv is None else argv)
    except OptionsError as error:
        return _fail(str(error), EXIT_OPTIONS)
    except LostProcessError as error:
        return _fail(str(error), EXIT_INTERNAL)
    except CompressionError as error:
        return _fail(str(error), EXIT_DATA)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again", EXIT_INTERRUPTED)
    except Terminated:
        return _fail("terminated; run the same command again", EXIT_TERMINATED)
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


@contextmanager
def _raising_on_sigterm() -> Generator[None]:
    """Make SIGTERM unwind the stack like Ctrl-C does, so that files are closed and temporary ones removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def on_sigterm(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that was forked from us
            os._exit(EXIT_TERMINATED)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


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
