"""Two processes of a run whose data are missing, of which the first takes long to report it."""

import logging
import os
import time
from pathlib import Path
from unittest import mock

from pipeline.cli.entry import main
from pipeline.runtime.launcher import launched

EARLY = 9


class SlowReport(logging.Handler):
    """Takes a second for each error, and then makes a file that shows that it was reported."""

    def __init__(self, marker: Path) -> None:
        super().__init__(logging.ERROR)
        self._marker = marker

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(1)
        self._marker.touch()


def refuse(folder: Path) -> None:
    """Run with missing data; exit with its exit code, or ``EARLY`` if the first process has not reported it yet."""
    marker = folder / "reported"
    if launched().is_main:
        logging.getLogger("pipeline.cli.entry").addHandler(SlowReport(marker))
    end = os._exit
    with mock.patch("os._exit", lambda code: end(code if marker.exists() else EARLY)):
        main(["--config", "3,3,3,2", "--data", str(folder / "gone.npz"), "--out", str(folder / "out")])
