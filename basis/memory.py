"""Return freed memory to the system."""

import ctypes
import sys


def release_memory() -> None:
    """Return memory that is free to the system, after work that needed much of it.

    The C library of Linux (glibc) keeps the memory of freed maps of up to 32 MB: hundreds of megabytes after a pass of
    large images. Larger maps of the next pass cannot use this memory. Other C libraries have no such call.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
