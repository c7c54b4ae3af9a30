"""The store of trained networks: what was trained once is read back, whichever run asks for it."""

import hashlib
import json
import logging
import os
from pathlib import Path

import platformdirs
import safetensors
import safetensors.torch
from torch import Tensor

from reports.files import write_atomically

logger = logging.getLogger(__name__)


def store_folder() -> Path:
    """``SERIESQUANT_CACHE``, or the platform's folder for a user's caches."""
    chosen = os.environ.get("SERIESQUANT_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("seriesquant", appauthor=False))


def store_key(**inputs: object) -> str:
    """A name made of everything that the stored result depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def read_state(key: str) -> dict[str, Tensor] | None:
    """The tensors stored under a key; None where there are none, or where the file is damaged."""
    path = store_folder() / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        return safetensors.torch.load(path.read_bytes())
    except (safetensors.SafetensorError, OSError) as error:
        logger.warning("stored network %s cannot be read and is made again: %s", path, error)
        return None


def write_state(key: str, state: dict[str, Tensor]) -> None:
    """Store tensors under a key; a store that cannot be written costs time later, so it only warns."""
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    )
    try:
        write_atomically(store_folder() / f"{key}.safetensors", content)
    except OSError as error:
        logger.warning("the trained network is not stored: %s", error)
