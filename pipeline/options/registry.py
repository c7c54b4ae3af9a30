"""The executors and the trackers by name; imports nothing heavy.

A new executor or tracker is one entry here and the code that it names.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final


@dataclass(frozen=True)
class Plugin:
    """The code behind a choice of an option.

    Attributes:
        home: ``module``, or ``module:attribute``.
        library: The library that it needs and the extra that installs it; None if it needs no extra.
    """

    home: str
    library: str | None = None

    def load(self) -> Any:
        """Import the code."""
        module, _, attribute = self.home.partition(":")
        found = import_module(module)
        return getattr(found, attribute) if attribute else found


EXECUTORS: Final = {
    "local": Plugin("pipeline.executors"),
    "ray": Plugin("pipeline.executors.ray_executor", "ray"),
}
"""Executor -> a module with the function ``opened``, see ``pipeline.executors``."""

TRACKERS: Final = {
    "mlflow": Plugin("pipeline.tracking.backends:MLflow", "mlflow"),
    "tensorboard": Plugin("pipeline.tracking.backends:TensorBoard", "tensorboard"),
}
"""Tracker -> the class of a ``pipeline.tracking.backends.Backend``."""
