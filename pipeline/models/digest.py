"""Hash all that determines a network's outputs: its weights, its structure and the user's code."""

import hashlib
import sys
from pathlib import Path

import torch
from torch import nn

_PACKAGED = ("torch", "torchvision", "pipeline", "basis", "quant")


def network_digest(name: str, model: nn.Module) -> str:
    """Hash a network: its name, ``repr`` (modules and settings), state dict, and the source files of user modules.

    Args:
        name: The name that it was built by, such as ``resnet18`` or ``my_networks:small_net``.
        model: The network.

    Returns:
        SHA-256 in hex.
    """
    digest = hashlib.sha256(f"{name}\n{model!r}\n{state_digest(model)}\n".encode())
    for file in _source_files(name, model):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _source_files(name: str, model: nn.Module) -> list[Path]:
    modules = {type(module).__module__ for module in model.modules()}
    if ":" in name:
        modules.add(name.partition(":")[0])
    own = sorted(module for module in modules if module.partition(".")[0] not in _PACKAGED)
    files = (getattr(sys.modules.get(module), "__file__", None) for module in own)
    return [Path(file) for file in files if file is not None and Path(file).is_file()]


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 in hex of a network's state dict: its names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
