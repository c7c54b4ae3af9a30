"""Processes that are forked from one with all libraries imported, for tests that need a process but not its imports."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 600


def fork(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a function of a module in a forked process; its result is dropped.

    Args:
        work: The function; it may end the process with ``sys.exit``.
        arguments: Its arguments.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    with pytest.MonkeyPatch.context() as patch:  # the server takes its search path and threads from its environment
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    process = context.Process(target=_work, args=(str(Path.cwd()), dict(os.environ), work, arguments))
    process.start()
    return process


def run_child(command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of ``child_command`` in a forked process, in place of ``subprocess.run``."""
    with tempfile.TemporaryDirectory() as folder:
        process = fork(_execute, command, dict(env), folder)
        process.join(PATIENCE)
        assert process.exitcode is not None, f"the process did not end within {PATIENCE} s"
        stdout, stderr = ((Path(folder) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _work(folder: str, environment: dict[str, str], work: Callable[..., object], arguments: Sequence[Any]) -> None:
    os.chdir(folder)
    _set_environment(environment)
    work(*arguments)


def _execute(command: Sequence[str], environment: dict[str, str], folder: str) -> None:
    _set_environment(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (Path(folder) / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    _, _, _, code, *sys.argv[1:] = command  # python -P -c code words
    exec(code, {"__name__": "__main__"})


def _set_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
