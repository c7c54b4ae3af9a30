"""A run's own random numbers from torch's global generators, beside whatever else the process does with them."""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

_GENERATORS = threading.Lock()


class RandomStream:
    """A stream of random numbers for code that draws from torch's global generators, such as dropout.

    Attributes:
        state: Device type -> state of its generator, to go on from.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        """Start at a seed, on the CPU and on a device; nothing global changes."""
        places = {"cpu": torch.device("cpu"), device.type: device}
        self.state = {kind: torch.Generator(place).manual_seed(seed).get_state() for kind, place in places.items()}

    @contextmanager
    def drawn_from(self) -> Generator[None]:
        """Let torch draw from this stream; afterwards the global generators are as they were. One thread at a time."""
        with _GENERATORS:
            before = {kind: _module(kind).get_rng_state() for kind in self.state}
            _set(self.state)
            try:
                yield
            finally:
                self.state = {kind: _module(kind).get_rng_state() for kind in self.state}
                _set(before)


def _set(states: Mapping[str, Tensor]) -> None:
    for kind, state in states.items():
        _module(kind).set_rng_state(state)


def _module(kind: str) -> Any:
    """Where the generators of the current device of this type are reached."""
    return torch if kind == "cpu" else cast(Any, torch.get_device_module(kind))


@dataclass
class _Flag:
    """The process has one flag for all threads: how many runs want it set, and what it was before the first."""

    lock: threading.Lock
    wanted: int = 0
    before: int = 0


_FLAG = _Flag(threading.Lock())


@contextmanager
def deterministic_algorithms() -> Generator[None]:
    """Deterministic algorithms where they exist; when the last of several runs ends, the flag is what it was before."""
    with _FLAG.lock:
        if _FLAG.wanted == 0:
            _FLAG.before = torch.get_deterministic_debug_mode()
            # Not use_deterministic_algorithms, which sets the same flag after importing the compiler, for a second.
            torch.set_deterministic_debug_mode("warn")
        _FLAG.wanted += 1
    try:
        yield
    finally:
        with _FLAG.lock:
            _FLAG.wanted -= 1
            if _FLAG.wanted == 0:
                torch.set_deterministic_debug_mode(_FLAG.before)
