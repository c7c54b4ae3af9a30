"""The command in a process that is forked from one with all libraries imported, and that can kill itself.

A kill while Python imports its libraries has nothing to interrupt, and importing takes most of a small run's time.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock", "fcntl.lockf", "subprocess.Popen"}
_LIBRARIES = ["pipeline.runner", "pipeline.cli.run", "matplotlib.figure", "onnxscript", "brevitas", "torch.export"]


def begin(
    folder: Path, words: Sequence[str], *, log: Path, last: int = 0, count: Path | None = None
) -> multiprocessing.process.BaseProcess:
    """Start the command in a folder.

    Args:
        folder: The working folder.
        words: The command line after the program's name.
        log: Where its output goes.
        last: It kills itself by SIGKILL just before it writes to the disk for the ``last``-th time; 0 is never.
        count: The file that receives the number of writes to the disk of a run that ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    process = context.Process(target=_work, args=(folder, list(words), log, last, count))
    process.start()
    return process


def _work(folder: Path, words: list[str], log: Path, last: int, count: Path | None) -> None:
    import torch

    from pipeline.cli.entry import program

    torch.set_num_threads(1)
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = _Watch(last)
    sys.addaudithook(watch)
    code = _program(words, program)
    if count is not None:
        count.write_text(str(watch.writes))
    sys.exit(code)


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
