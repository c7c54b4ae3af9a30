"""The store of trained networks: what was trained once is read back, whichever run asks for it."""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from reports.files import write_atomically

logger = logging.getLogger(__name__)
_SECONDS = "seconds"


def store_folder() -> Path:
    """``SERIESQUANT_CACHE``, or the platform's folder for a user's caches."""
    chosen = os.environ.get("SERIESQUANT_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("seriesquant", appauthor=False))


def store_key(**inputs: object) -> str:
    """A name made of everything that the stored result depends on."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Stored:
    """A trained network as it was stored.

    Attributes:
        state: Name -> tensor, on the CPU.
        seconds: What making it took.
    """

    state: dict[str, Tensor]
    seconds: float


def state_digest(model: nn.Module) -> str:
    """SHA-256 of a network's names, dtypes, shapes and values: all that its state dict tells of it."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_state(key: str) -> Stored | None:
    """What is stored under a key; None where there is nothing, or where the file is damaged."""
    path = store_folder() / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            seconds = float((file.metadata() or {})[_SECONDS])
            return Stored({name: file.get_tensor(name) for name in file.keys()}, seconds)  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("stored network %s cannot be read and is made again: %s", path, error)
        return None


def write_state(key: str, model: nn.Module, seconds: float) -> None:
    """Store a network under a key; a store that cannot be written costs time later, so it only warns."""
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    try:
        content = safetensors.torch.save(state, {_SECONDS: f"{seconds:.1f}"})
        write_atomically(store_folder() / f"{key}.safetensors", content)
    except OSError as error:
        logger.warning("the trained network is not stored: %s", error)


def load_stored(model: nn.Module, stored: Stored) -> bool:
    """Fill a network with a stored state of the same names and shapes; whether it was one."""
    own = model.state_dict()
    if own.keys() != stored.state.keys() or any(own[name].shape != stored.state[name].shape for name in own):
        return False
    model.load_state_dict(stored.state)
    return True
