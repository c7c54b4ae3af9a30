"""Two processes, of which one ends without a word."""

import os
import sys

from pipeline.errors import LostProcessError
from pipeline.runtime.device import make_accelerator, processes_of
from pipeline.runtime.processes import exit_barrier

KILLED, NOTICED = 9, 7


def lose_one() -> None:
    """Exit with ``KILLED`` in the second process, and with ``NOTICED`` in the first if it notices."""
    processes = processes_of(make_accelerator("cpu"))
    try:
        with exit_barrier():
            processes.gather_objects("still here")
            if not processes.is_main:
                os._exit(KILLED)
            processes.gather_objects("still here")
    except LostProcessError as error:
        sys.exit(NOTICED if "processes: another process" in str(error) else 1)
