"""Name a run's output folder, and write an option's value as the words of a command line."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.options.values import flag_name

_LONGEST: Final = 100
"""Characters of a folder's name, well below the 255 of a file system."""


def default_out(values: Mapping[str, Any]) -> Path:
    """Return the default output folder: ``runs/<model>-<data>-<configs>``; ``runs`` if one of the three is unknown.

    Args:
        values: Option name -> checked value.
    """
    if not {"config", "model", "data"} <= set(values):
        return Path("runs")
    stem = Path(values["data"]).stem or "data"
    name = re.sub(r"[^\w.,-]+", "-", f"{values['model']}-{stem}-{'_'.join(values['config'])}")
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST - 9]}-{digest}"
    return Path("runs") / name


def flag_words(name: str, value: object) -> list[str]:
    """Return the flag and its value: ``("bits", (8, 4))`` -> ``["--bits", "8,4"]``."""
    if isinstance(value, bool):
        return [flag_name(name) if value else f"--no-{name}"]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [flag_name(name), text]
