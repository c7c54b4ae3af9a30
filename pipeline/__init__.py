"""From a trained network to a compressed artifact and its report; the names below load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.artifact import load
    from pipeline.compression.compress import compress
    from pipeline.compression.result import CompressionResult
    from pipeline.options.options import Options
    from pipeline.runner import run

__all__ = ["CompressionResult", "Options", "compress", "load", "run"]

_HOMES = {
    "CompressionResult": "pipeline.compression.result",
    "Options": "pipeline.options.options",
    "compress": "pipeline.compression.compress",
    "load": "pipeline.artifact",
    "run": "pipeline.runner",
}

# Imported along with a name: the import takes seconds, which the first call of the name would otherwise take.
_COMPANIONS = {"load": "torchvision.models"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _COMPANIONS:
        import_module(_COMPANIONS[name])
    return getattr(import_module(_HOMES[name]), name)
