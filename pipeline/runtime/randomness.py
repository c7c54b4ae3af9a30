"""Random numbers of a run, drawn from torch's global generators without changing them for other code."""

import random
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

_GENERATORS = threading.Lock()


class RandomStream:
    """A stream of random numbers for code that draws from torch's global generators, such as dropout.

    Attributes:
        state: Device type -> state of its generator, from which the stream resumes.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        places = {"cpu": torch.device("cpu"), device.type: device}
        self.state = {kind: torch.Generator(place).manual_seed(seed).get_state() for kind, place in places.items()}

    @contextmanager
    def drawn_from(self) -> Generator[None]:
        """Make torch draw from this stream, in one thread at a time; restore the global generators afterwards."""
        with _GENERATORS:
            before = {kind: _module(kind).get_rng_state() for kind in self.state}
            _set(self.state)
            try:
                yield
            finally:
                self.state = {kind: _module(kind).get_rng_state() for kind in self.state}
                _set(before)


@contextmanager
def python_generators(seed: int = 0) -> Generator[None]:
    """Seed the global generators of Python and numpy for a user's code, and restore them afterwards."""
    before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _set(states: Mapping[str, Tensor]) -> None:
    for kind, state in states.items():
        _module(kind).set_rng_state(state)


def _module(kind: str) -> Any:
    """Return the module with the generator functions of a device type."""
    return torch if kind == "cpu" else cast(Any, torch.get_device_module(kind))


@dataclass
class _Flag:
    """The process-wide flag: the number of runs that need it, and its value before the first of them."""

    lock: threading.Lock
    wanted: int = 0
    before: int = 0


_FLAG = _Flag(threading.Lock())


@contextmanager
def deterministic_algorithms() -> Generator[None]:
    """Use deterministic algorithms where they exist; restore the flag after the last of several concurrent runs."""
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
