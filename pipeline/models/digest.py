"""Hash all that determines a network's outputs: its weights, its structure and the user's code."""

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import nn

from pipeline.models.imported import loaded_module
from pipeline.runtime.packages import NAMES, ROOT, user_modules

_VERSIONED: Final = ("torch", "torchvision")
"""Libraries whose versions are in every cache key, so that their files are not read."""
_INSTALLED: Final = ("site-packages", "dist-packages")
_LIBRARY: Final = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))
_OURS: Final = (*(ROOT / name for name in NAMES), ROOT / "seriesquant.py", ROOT / "run_pipeline.py")


def network_digest(name: str, model: nn.Module) -> str:
    """Hash a network: its name, ``repr`` (modules and settings), state dict, and the source files of user modules.

    The source files are those of the modules that define the network's layers, and of every other loaded module that
    is neither installed nor Python's own. A helper that the network's module imports is one of them.

    Args:
        name: The name that it was built by, such as ``resnet18`` or ``my_networks:small_net``.
        model: The network.

    Returns:
        SHA-256 in hex.
    """
    digest = hashlib.sha256(f"{name}\n{model!r}\n{state_digest(model)}\n".encode())
    for module, file in sorted(_source_files(name, model)):
        digest.update(f"{module}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _source_files(name: str, model: nn.Module) -> set[tuple[str, Path]]:
    """Return (module name, file) of all user code; the program's own `__main__` only if it defines a layer."""
    defining = {type(module).__module__ for module in model.modules()}
    if (named := loaded_module(name)) is not None:
        defining.add(named.__name__)
    return {
        (module, file)
        for module, file in _loaded_files()
        if (module in defining and module.partition(".")[0] not in _VERSIONED)
        or (module != "__main__" and _is_users(file))
    }


def _loaded_files() -> Iterator[tuple[str, Path]]:
    """Iterate over the loaded modules that have a file and are not the project's."""
    for name, module in [*sys.modules.items(), *user_modules().items()]:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file).is_file():
            resolved = Path(file).resolve()
            if not any(place == resolved or place in resolved.parents for place in _OURS):
                yield name, resolved


def _is_users(file: Path) -> bool:
    return not any(part in _INSTALLED for part in file.parts) and not any(place in file.parents for place in _LIBRARY)


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 in hex of a network's state dict: its names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
