"""A program of two processes, of which one ends without a word."""

import os
import sys

from pipeline.errors import LostProcessError
from pipeline.runtime.device import make_accelerator, processes_of
from pipeline.runtime.processes import exit_barrier

processes = processes_of(make_accelerator("cpu"))
try:
    with exit_barrier():
        if not processes.is_main:
            os._exit(9)
        processes.gather_objects("still here")
except LostProcessError as error:
    print(error)
    sys.exit(1)
