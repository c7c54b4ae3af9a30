"""Names of stored results, each made of everything that the result depends on."""

import hashlib
import json

import torch
from torch import nn


def store_key(**inputs: object) -> str:
    """The name of what these inputs give: 32 hexadecimal digits of their SHA-256.

    Args:
        inputs: Name -> what JSON knows.
    """
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def state_digest(model: nn.Module) -> str:
    """SHA-256 of a network's names, dtypes, shapes and values: all that its state dict tells of it."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
