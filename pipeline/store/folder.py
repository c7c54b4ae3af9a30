"""Where the store is, and what the files in it are called; loads nothing heavy."""

import os
from pathlib import Path
from typing import Final

import platformdirs

VARIABLE: Final = "SERIESQUANT_CACHE"
RESULT: Final = ".safetensors"
CHECKPOINT: Final = ".checkpoint"
LOCK: Final = ".lock"


def store_folder(chosen: Path | None = None) -> Path:
    """The folder chosen, or the one that ``SERIESQUANT_CACHE`` names, or the platform's for a user's caches."""
    if chosen is not None:
        return chosen
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("seriesquant", appauthor=False))
