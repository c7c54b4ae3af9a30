"""Report the progress of work on the layers of a network through a context variable instead of parameters."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Advance = Callable[[int, str], None]
"""Receives the number of layers just done and a short status."""


@dataclass
class _Layers:
    advance: Advance
    name: str = ""
    steps: int = 0


_LAYERS: ContextVar[_Layers | None] = ContextVar("layers", default=None)


@contextmanager
def reported_to(advance: Advance) -> Generator[None]:
    """Report the layers and steps inside the block.

    Args:
        advance: Called after every layer, and after every step within a layer with 0 layers done.
    """
    token = _LAYERS.set(_Layers(advance))
    try:
        yield
    finally:
        _LAYERS.reset(token)


@contextmanager
def layer(name: str) -> Generator[None]:
    """Count a layer as done at the end of the block."""
    layers = _LAYERS.get()
    if layers is not None:
        layers.name, layers.steps = name, 0
    yield
    if layers is not None:
        layers.advance(1, name)


def step() -> None:
    """Report that a part of the work on the current layer is done."""
    layers = _LAYERS.get()
    if layers is not None:
        layers.steps += 1
        layers.advance(0, f"{layers.name}, step {layers.steps}")
