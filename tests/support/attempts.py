"""The command in a forked process, which can kill itself.

A kill while Python imports its libraries has nothing to interrupt, and importing takes most of a small run's time.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.blank import blank_plots
from tests.support.forking import fork

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock", "fcntl.lockf", "subprocess.Popen"}


def begin(
    folder: Path,
    words: Sequence[str],
    *,
    log: Path,
    errors: Path | None = None,
    last: int = 0,
    count: Path | None = None,
    graph: Path | None = None,
) -> BaseProcess:
    """Start the command in a folder; it reloads its artifacts in its own process, and its plots are blank.

    Args:
        folder: The working folder.
        words: The command line after the program's name.
        log: Where its output goes.
        errors: Where its stderr goes; None for ``log``.
        last: It kills itself by SIGKILL just before it writes to the disk for the ``last``-th time; 0 is never.
        count: The file that receives the number of writes to the disk of a run that ended.
        graph: A pickled ``TracedNetwork`` of its network, which takes a third of a small run; None traces it.
    """
    return fork(_work, folder, list(words), (log, errors or log), last, count, graph)


def _work(
    folder: Path, words: list[str], streams: tuple[Path, Path], last: int, count: Path | None, graph: Path | None
) -> None:
    from pipeline.cli.entry import program
    from pipeline.onnx import file
    from pipeline.stages import verify
    from reports import write
    from reports.html import page

    os.chdir(folder)
    for number, stream in enumerate(streams, start=1):
        with stream.open("ab") as output:
            os.dup2(output.fileno(), number)
    if graph is not None:
        file.trace = lambda *_: pickle.loads(graph.read_bytes())
    verify.subprocess = SimpleNamespace(run=_answer)  # type: ignore[attr-defined]
    write.write_plots, page.plot_specification = blank_plots, lambda report: None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = _Watch(last)
    sys.addaudithook(watch)
    code = _program(words, program)
    if count is not None:
        count.write_text(str(watch.writes))
    sys.exit(code)


def _answer(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
    from pipeline.stages.verify import answer

    _, _, _, _, _, _, _, folder, *_ = command  # python -P -c code root target 1 folder
    return subprocess.CompletedProcess(command, answer(folder), "", "")


def _program(words: list[str], program: Any) -> int:
    sys.argv = ["run_pipeline.py", *words]
    code: int = program()
    return code


class _Watch:
    """An audit hook that counts the writes to the disk, and ends the process before one of them."""

    def __init__(self, last: int) -> None:
        self.writes, self._last = 0, last

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in WRITES or (event == "open" and _writes(arguments[2])):
            self.writes += 1
            if self.writes == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def _writes(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
