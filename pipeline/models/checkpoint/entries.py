"""List the tensors of a checkpoint's content with their paths, whatever they are nested in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.models.checkpoint.rebuild import Global, Placeholder
from pipeline.models.checkpoint.words import is_of_training

_MOST_OBJECTS: Final = 10**6
"""Objects that are visited; a file of few bytes can nest lists without end."""
_LONGEST_LIST: Final = 16
_TENSORS: Final = {"q": "quantized", "sparse_": "sparse", "meta_": "meta", "nested_": "nested"}
_REBUILT_ARRAY: Final = re.compile(r"numpy\.(_core|core)\.multiarray\._reconstruct")
_ARRAY_OF_BYTES: Final = re.compile(r"numpy\.(_core|core)\.numeric\._frombuffer")
"""The function of arrays in pickles of protocol 5: (bytes, type, shape, order)."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a checkpoint.

    Attributes:
        home: Path of the dict or network that holds it, such as ``state_dict``; empty for the file itself.
        name: Its name in it, such as ``conv1.weight``.
        tensor: Its values, on the CPU.
    """

    home: str
    name: str
    tensor: Tensor

    @property
    def path(self) -> str:
        """Its path in the file."""
        return _joined(self.home, self.name)


@dataclass
class Content:
    """The content of a checkpoint.

    Attributes:
        entries: Every tensor.
        others: Path -> type of every other value; of lists, also their length.
        kind: Type of the whole content.
    """

    entries: list[Entry] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    kind: str = "dict"

    def under(self, key: str) -> "Content":
        """Return the part whose paths start with ``key``, which is removed from them."""
        found = Content(kind=self.others.get(key, "dict"))
        start = f"{key}."
        for entry in self.entries:
            if entry.home == key or entry.home.startswith(start):
                found.entries.append(replace(entry, home=entry.home[len(start) :]))
            elif entry.path.startswith(start):  # the key ends within a name, such as `state_dict.student`
                found.entries.append(Entry("", entry.path[len(start) :], entry.tensor))
        found.others = {path[len(start) :]: kind for path, kind in self.others.items() if path.startswith(start)}
        return found

    def weight_keys(self, most: int = 12) -> list[str]:
        """Return the keys that hold tensors: those of dicts and networks, and the first parts of names in them."""
        found: dict[str, None] = {}
        for entry in self.entries:
            parts = entry.home.split(".") if entry.home else []
            found |= dict.fromkeys(".".join(parts[: count + 1]) for count in range(len(parts)))
        if len(found) < most:
            found |= dict.fromkeys(_joined(entry.home, entry.name.split(".")[0]) for entry in self.entries)
        named = {entry.path for entry in self.entries}
        return [key for key in found if key not in named and not is_of_training(key)][:most]


def list_entries(content: Any) -> Content:
    """List the tensors in nested dicts, pickled networks, TorchScript modules and other objects with attributes.

    Dicts and objects in short lists and tuples, such as ``(state_dict, epoch)``, count too. NumPy arrays become
    tensors.

    Raises:
        DataError: The content has more than a million objects.
    """
    found = Content(kind=type_name(content))
    _visit(content, "", found, [_MOST_OBJECTS], ())
    return found


def type_name(value: Any) -> str:
    """Return the name of a value's type for messages: ``int``, ``argparse.Namespace``, ``list of 2 dict``."""
    if isinstance(value, Placeholder):
        kind = re.fullmatch(r"torch\._utils\._rebuild_(q|sparse_|meta_|nested_)tensor.*", value.type_name)
        return f"{_TENSORS[kind[1]]} tensor" if kind else value.type_name
    if isinstance(value, Global):
        return f"class {value}"
    name = type(value).__name__
    if isinstance(value, list | tuple) and value:
        first = value[0]  # which may be a list that holds this one
        return f"{name} of {len(value)} {type(first).__name__ if isinstance(first, list | tuple) else type_name(first)}"
    return name


def _visit(value: Any, path: str, found: Content, budget: list[int], above: tuple[int, ...]) -> None:
    members = _members(value)
    if members is None:
        if path:
            found.others[path] = type_name(value)
        return
    if _is_network(value):
        found.entries += [Entry(path, name, tensor) for name, tensor in _network_tensors(value, "", budget, above)]
        return
    before = len(found.entries) + len(found.others)
    for key, each in members.items():
        _spend(budget)
        tensor = as_tensor(each)
        inner = _joined(path, str(key))
        if tensor is not None:
            found.entries.append(Entry(path, str(key), tensor))
        elif id(each) not in above:
            _visit(each, inner, found, budget, (*above, id(each)))
    if isinstance(value, list | tuple) and path and len(found.entries) + len(found.others) == before:
        found.others[path] = type_name(value)


def _members(value: Any) -> Mapping[Any, Any] | None:
    """Return a mapping's items, an object's attributes, or a short list's dicts and objects; None for others."""
    if isinstance(value, Placeholder):
        made_of = value.args[0] if value.args and isinstance(value.args[0], dict) else None
        found = (value.items or None, value.state, made_of)
        return next((each for each in found if isinstance(each, dict)), None)
    if isinstance(value, list | tuple) and len(value) <= _LONGEST_LIST:
        return {place: each for place, each in enumerate(value) if _has_members(each)} or None
    return value if isinstance(value, dict) else None


def _has_members(value: Any) -> bool:
    if isinstance(value, Placeholder):
        return as_tensor(value) is None and bool(_members(value))
    return isinstance(value, dict | list | tuple)


def _is_network(value: Any) -> bool:
    if not isinstance(value, Placeholder):
        return False
    return value.type_name.startswith("__torch__.") or {"_parameters", "_modules"} <= (_members(value) or {}).keys()


def _network_tensors(
    value: Placeholder, prefix: str, budget: list[int], above: tuple[int, ...]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a network's state dict, as ``nn.Module.state_dict`` names them."""
    members = _members(value) or {}
    scripted = "_parameters" not in members
    parts = (members,) if scripted else (members["_parameters"], members.get("_buffers", {}), members["_modules"])
    hidden = members.get("_non_persistent_buffers_set", ())
    for part in parts:
        for name, each in part.items():
            _spend(budget)
            tensor = as_tensor(each)
            if tensor is not None and name not in hidden:
                yield f"{prefix}{name}", tensor
            elif isinstance(each, Placeholder) and id(each) not in above and _is_network(each):
                yield from _network_tensors(each, f"{prefix}{name}.", budget, (*above, id(each)))


def _spend(budget: list[int]) -> None:
    budget[0] -= 1
    if budget[0] < 0:
        raise DataError(f"the checkpoint holds more than {_MOST_OBJECTS:,} objects; allowed: a state dict")


def as_tensor(value: Any) -> Tensor | None:
    """Return a tensor unchanged, and a NumPy array of numbers as a tensor; None for any other value."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, Placeholder):
        return None
    if _REBUILT_ARRAY.fullmatch(value.type_name) and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, by_columns, content = value.state
    elif _ARRAY_OF_BYTES.fullmatch(value.type_name) and len(value.args) == 4:
        content, kind, shape, order = value.args
        by_columns = order == "F"
    else:
        return None
    code = kind.args[0] if isinstance(kind, Placeholder) and kind.args else None
    if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1", code):
        return None
    if not isinstance(content, bytes | bytearray):
        return None
    swapped = isinstance(kind.state, tuple) and kind.state[1] == ">"
    array = np.frombuffer(content, np.dtype(code).newbyteorder(">" if swapped else "<"))
    native = array.astype(np.dtype(code))  # a copy that may be written
    return torch.from_numpy(native.reshape(shape, order="F" if by_columns else "C").copy())


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
