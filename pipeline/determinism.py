"""torch's deterministic algorithms while a run needs them, whichever threads run at the same time."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class _Flag:
    """The process has one flag for all threads: how many runs want it set, and what it was before the first."""

    lock: threading.Lock
    wanted: int = 0
    before: bool = False
    warn_only: bool = False


_FLAG = _Flag(threading.Lock())


@contextmanager
def deterministic_algorithms() -> Generator[None]:
    """Deterministic algorithms where they exist; when the last of several runs ends, the flag is what it was before."""
    with _FLAG.lock:
        if _FLAG.wanted == 0:
            _FLAG.before = torch.are_deterministic_algorithms_enabled()
            _FLAG.warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            torch.use_deterministic_algorithms(True, warn_only=True)
        _FLAG.wanted += 1
    try:
        yield
    finally:
        with _FLAG.lock:
            _FLAG.wanted -= 1
            if _FLAG.wanted == 0:
                torch.use_deterministic_algorithms(_FLAG.before, warn_only=_FLAG.warn_only)
