"""The names of the project's loggers."""

from typing import Final

LOGGERS: Final = ("basis", "pipeline", "quant", "reports")
"""The parent loggers of every module of the project, one a package."""
