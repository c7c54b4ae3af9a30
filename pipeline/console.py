"""What commands print as their result."""

import os
import sys


def print_result(text: str) -> None:
    """Print to stdout; a reader that has gone away, as in ``| head``, is no error of ours."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more as it exits, which would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
