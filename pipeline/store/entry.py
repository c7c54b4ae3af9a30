"""The result of a stage: tensors and JSON metadata in one safetensors file."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

_METADATA, _STAGE, _SECONDS, _PEAK = "metadata", "stage", "seconds", "peak_memory_mb"
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class Entry:
    """The result of a stage.

    Attributes:
        tensors: Name -> tensor, on the CPU.
        metadata: Name -> value that JSON can hold.
        seconds: Time that the stage took; 0 until the entry is stored.
        peak_memory_mb: Largest memory of the process by the end of the stage, in 10^6 bytes; 0 if it is not known.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy the tensors of a network's state dict to the CPU, each with memory of its own; extra state is left out."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _tensors(model).items()}


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of ``state_of`` into a network, in place; its extra state stays.

    Raises:
        RuntimeError: A name or a shape differs.
    """
    whole = model.state_dict()  # with the versions of its modules, which some of them need
    for name in _tensors(model):
        del whole[name]
    whole.update(state)
    model.load_state_dict(whole)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Return True if a state has the names and shapes of the network's state dict."""
    own = _tensors(model)
    return own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)


def as_tensor(content: bytes) -> Tensor:
    """Convert the bytes of a file to a uint8 tensor, (length,)."""
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def as_bytes(tensor: Tensor) -> bytes:
    """Convert a uint8 tensor, (length,), to bytes: the inverse of ``as_tensor``."""
    return tensor.numpy().tobytes()


def to_bytes(entry: Entry, stage: str) -> bytes:
    """Serialize an entry; ``stage`` is the name that ``seriesquant cache ls`` lists."""
    metadata = {
        _STAGE: stage,
        _SECONDS: f"{entry.seconds:.3f}",
        _PEAK: f"{entry.peak_memory_mb:.1f}",
        _METADATA: json.dumps(entry.metadata),
    }
    metadata[_CHECKSUM] = _checksum(entry.tensors, metadata)
    return safetensors.torch.save(dict(entry.tensors), metadata)


def read_entry(path: Path) -> Entry:
    """Read an entry's file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _CHECKSUM not in metadata:
            raise ValueError("no stored result: it has no checksum, like files of earlier versions")
        if metadata.pop(_CHECKSUM) != _checksum(tensors, metadata):
            raise ValueError("no stored result: its checksum is not that of its content")
        return Entry(tensors, json.loads(metadata[_METADATA]), float(metadata[_SECONDS]), float(metadata[_PEAK]))
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"no stored result: {error}") from None


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32 of an entry's texts, and of the names, types, shapes and bytes of its tensors."""
    crc = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode(), crc)
        crc = zlib.crc32(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
