"""Freed memory: keep it for the next tensors, or return it to the system."""

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

KEPT_BYTES: Final = 72 * 2**20
"""Bytes of the largest tensor whose memory is kept when it is freed, and most free bytes at the end of the heap.

It is a little more than a map of 16 channels of 1,024 images of 32 x 32 pixels. Gaps of larger tensors raise the peak.
"""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # the numbers of mallopt's parameters in malloc.h
_SETTINGS: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep the memory of freed tensors for the next ones, in this whole process.

    Without it, the C library of Linux (glibc) returns tensors of more than 32 MB to the system at once. The system then
    clears each page of the next tensor, which takes a fifth of the time of a rounding. Other C libraries are left as
    they are. So are the settings of a user, who has set one of glibc's variables.

    Args:
        environment: Name -> value; the process's environment by default.

    Returns:
        True if the C library was set.
    """
    set_parameter = _function("mallopt")
    if set_parameter is None or any(name in environment for name in _SETTINGS):
        return False
    return bool(set_parameter(_MMAP_THRESHOLD, KEPT_BYTES) and set_parameter(_TRIM_THRESHOLD, KEPT_BYTES))


def release_memory() -> None:
    """Return memory that is free to the system, after work that needed much of it.

    The C library of Linux (glibc) keeps the memory of freed tensors of up to 32 MB, or of more after
    ``keep_freed_memory``: hundreds of megabytes after a pass of large images. Other C libraries have no such call.
    """
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library, which glibc alone has on Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
