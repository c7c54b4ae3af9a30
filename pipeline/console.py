"""What commands print as their result."""

import os
import sys

from pipeline.runtime.launcher import launched


def print_result(text: str) -> None:
    """Print to stdout, once where a launcher started several processes.

    A reader that has gone away, as in ``| head``, is no error of ours.
    """
    if not launched().is_main:
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more as it exits, which would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
