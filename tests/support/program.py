"""The program, as users run it: a process of its own, or the same command line in this process, which saves seconds."""

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.runtime.packages import PACKAGES
from tests.support.networks import forget_modules

ROOT = Path(__file__).parents[2]
PATIENCE = 600


def run_program(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a process to its end in a folder, with a store of the folder's own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run_pipeline.py"), *arguments],
        cwd=folder,
        env={**os.environ, "SERIESQUANT_CACHE": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def call_program(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as ``run_program`` does, but in this process, which has imported its libraries already."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with _process_state(folder), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(ROOT / "run_pipeline.py"), *arguments])
        for name, value in ({"SERIESQUANT_CACHE": str(folder / "cache")} | environment).items():
            patch.setenv(name, value)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = main(list(arguments))
    return subprocess.CompletedProcess(sys.argv, code, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def _process_state(folder: Path) -> Iterator[None]:
    """Restore the logging and drop the modules that were imported from a folder, which the next folder has as well."""
    root, ours = logging.getLogger(), [logging.getLogger(name) for name in PACKAGES]
    handlers, level, levels = root.handlers[:], root.level, [each.level for each in ours]
    root.handlers.clear()  # else the program would close them
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        for logger, its in zip(ours, levels, strict=True):
            logger.setLevel(its)
        forget_modules(folder)
