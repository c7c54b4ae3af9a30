"""What a stage leaves: tensors, and facts that JSON can hold, in one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

_FACTS, _STAGE, _SECONDS = "facts", "stage", "seconds"


@dataclass(frozen=True)
class Entry:
    """The result of a stage.

    Attributes:
        tensors: Name -> tensor, on the CPU.
        facts: What JSON can hold.
        seconds: What making it took; known once it was stored.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A network's state dict as tensors that an entry can hold: on the CPU, each with memory of its own."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state has the names and shapes of a network's own."""
    own = model.state_dict()
    return own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)


def as_tensor(content: bytes) -> Tensor:
    """The bytes of a file, uint8, (length,)."""
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def as_bytes(tensor: Tensor) -> bytes:
    """The inverse of ``as_tensor``."""
    return tensor.numpy().tobytes()


def to_bytes(entry: Entry, stage: str) -> bytes:
    """The content of an entry's file; ``stage`` says in words what made it."""
    metadata = {_STAGE: stage, _SECONDS: f"{entry.seconds:.3f}", _FACTS: json.dumps(entry.facts)}
    return safetensors.torch.save(dict(entry.tensors), metadata)


def read_entry(path: Path) -> Entry:
    """Read an entry's file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Entry(tensors, json.loads(metadata[_FACTS]), float(metadata[_SECONDS]))
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"no stored result: {error}") from None
