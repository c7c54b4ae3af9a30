"""Hash all that determines a network's outputs: its weights, its structure and the user's code."""

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from pipeline.models.imported import loaded_module, modules_of_networks
from pipeline.runtime.packages import PACKAGES, ROOT, user_modules

_VERSIONED: Final = ("torch", "torchvision")
"""Libraries whose versions are in every cache key, so that their files are not read."""
_INSTALLED: Final = ("site-packages", "dist-packages")
_LIBRARY: Final = tuple(str(Path(sysconfig.get_path(kind)).resolve()) for kind in ("stdlib", "platstdlib"))
_OURS: Final = tuple(str(ROOT / name) for name in (*PACKAGES, "seriesquant.py", "run_pipeline.py"))


def network_digest(name: str, model: nn.Module) -> str:
    """Hash a network: its name, ``repr`` (modules and settings), state dict, and the source files of user modules.

    Three kinds of modules are hashed: those that define the network's layers, those that these import, and those that
    were loaded while networks were built. Only modules that are neither installed nor Python's own are followed.

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


def content_digest(model: nn.Module) -> str:
    """Return the SHA-256 in hex of a network's ``repr`` and state dict, whatever name or file it was built from."""
    return hashlib.sha256(f"{model!r}\n{state_digest(model)}\n".encode()).hexdigest()


def _source_files(name: str, model: nn.Module) -> set[tuple[str, Path]]:
    """Return (module name, file) of the code of a network: the modules of its layers, and what they import."""
    defining = {type(module).__module__ for module in model.modules()}
    if (named := loaded_module(name)) is not None:
        defining.add(named.__name__)
    files = dict(_loaded_files())
    users = {module: file for module, file in files.items() if _is_users(file)}
    reached = _with_imports((defining | modules_of_networks()) & users.keys(), users)
    others = {module for module in defining & files.keys() if module.partition(".")[0] not in _VERSIONED}
    installed = {module for module in others if files[module].is_file()}
    return {(module, files[module]) for module in reached | installed}


def _with_imports(start: Set[str], files: Mapping[str, Path]) -> set[str]:
    """Return modules and all that they import, directly or not, of the modules in ``files``."""
    found, waiting = set(start), list(start)
    while waiting:
        module = waiting.pop()
        new = {each for each in _imports(module, files[module]) if each in files} - found
        found |= new
        waiting += new
    return found


def _imports(module: str, file: Path) -> set[str]:
    """Return the names that a module may import, and those of the packages around them, from its source."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a compiled module
        return set()
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (parent, node.module)))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 2)}


def _loaded_files() -> Iterator[tuple[str, Path]]:
    """Iterate over the loaded modules that name a file and are not the project's; a user's file exists."""
    for name, module in [*sys.modules.items(), *user_modules().items()]:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and (found := _resolved_other(file)) is not None:
            resolved, is_users = found
            if not is_users or resolved.is_file():
                yield name, resolved


# A process has thousands of modules, and every stage asks for the digest of its network.
@cache
def _resolved_other(file: str) -> tuple[Path, bool] | None:
    """Return a file's real path, and True if it is a user's; None if it is the project's."""
    resolved = Path(file).resolve()
    return None if _is_below(resolved, _OURS) else (resolved, _is_users(resolved))


@cache
def _is_users(file: Path) -> bool:
    return not any(part in _INSTALLED for part in file.parts) and not _is_below(file, _LIBRARY)


def _is_below(file: Path, places: tuple[str, ...]) -> bool:
    """Return True if a resolved file is one of the places or in a folder among them.

    Text is compared, because ``Path.parents`` of thousands of modules takes seconds.
    """
    return str(file) in places or str(file).startswith(tuple(f"{place}{os.sep}" for place in places))


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 in hex of a network's state dict: its names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        leaves, structure = tree_flatten(tensor)  # extra state may be anything
        digest.update(f"{name} {structure if len(leaves) != 1 else ''}".encode())
        for leaf in leaves:
            array = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "buif" else leaf
            if not isinstance(array, Tensor):
                digest.update(f"{array!r};".encode())
                continue
            digest.update(f"{array.dtype} {tuple(array.shape)};".encode())
            digest.update(array.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
