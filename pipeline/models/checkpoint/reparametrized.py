"""Fold pruning masks, weight norm and spectral norm of a checkpoint into plain weights, or rename their parts.

PyTorch stores such a weight as several tensors. ``torch.nn.utils`` adds a suffix to its name (``weight_orig``,
``weight_mask``, ``weight_g``), and ``torch.nn.utils.parametrizations`` a path (``parametrizations.weight.original``).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from pipeline.models.checkpoint.entries import Content, Entry

_OLD: Final = re.compile(r"(?P<layer>.*?)(?P<name>[^.]+)_(?P<part>orig|mask|g|v|u)")
_NEW: Final = re.compile(r"(?P<layer>.*?)parametrizations\.(?P<name>[^.]+)\.(?P<part>original[01]?|0\._[uv])")
_RENAMED: Final = {
    frozenset("gv"): {"g": "original0", "v": "original1"},
    frozenset(("orig", "u", "v")): {"orig": "original", "u": "0._u", "v": "0._v"},
}


def other_forms(content: Content) -> Iterator[Content]:
    """Yield a checkpoint with plain weights, and with the names of ``torch.nn.utils.parametrizations``.

    Nothing is yielded if it has no such weights. Folded weights are those of evaluation.
    """
    groups: dict[tuple[str, str], dict[str, Entry]] = defaultdict(dict)
    for entry in content.entries:
        found = _NEW.fullmatch(entry.name) or _OLD.fullmatch(entry.name)
        if found:
            groups[entry.home, found["layer"] + found["name"]][found["part"]] = entry
    plain: dict[int, Entry] = {}
    renamed: dict[int, Entry] = {}
    for (home, name), parts in groups.items():
        order = next((order for order in _FOLDS if set(order) == parts.keys()), None)
        if order is not None:
            weight = Entry(home, name, _FOLDS[order](*(parts[part].tensor.double() for part in order)).float())
            plain |= {id(entry): weight for entry in parts.values()}
        layer, _, own = name.rpartition(".")
        path = ".".join(part for part in (layer, "parametrizations", own) if part)
        names = _RENAMED.get(frozenset(parts), {})
        renamed |= {id(parts[part]): replace(parts[part], name=f"{path}.{new}") for part, new in names.items()}
    for changed in filter(None, (plain, renamed)):
        kept = {id(entry): entry for entry in (changed.get(id(each), each) for each in content.entries)}
        yield Content(list(kept.values()), content.others, content.kind)


def _masked(weight: Tensor, mask: Tensor) -> Tensor:
    return weight.mul(mask)


def _weight_norm(magnitude: Tensor, direction: Tensor) -> Tensor:
    """Return ``g v / ||v||``; the norm is over the dimensions in which ``g`` has one value."""
    single = [axis for axis in range(direction.dim()) if magnitude.dim() == 0 or magnitude.shape[axis] == 1]
    return direction.mul(magnitude / torch.linalg.vector_norm(direction, dim=single, keepdim=True))


def _spectral_norm(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return ``W / (u^T W v)``, where the rows of the matrix ``W`` are the output channels."""
    axis = 0 if weight.shape[0] == left.numel() else 1  # 1 for transposed convolutions
    matrix = weight.movedim(axis, 0).flatten(1)
    return weight.div(torch.dot(left, matrix @ right))


_FOLDS: Final[dict[tuple[str, ...], Callable[..., Tensor]]] = {
    ("orig", "mask"): _masked,
    ("g", "v"): _weight_norm,
    ("original0", "original1"): _weight_norm,
    ("orig", "u", "v"): _spectral_norm,
    ("original", "0._u", "0._v"): _spectral_norm,
}
"""Parts of a weight -> the function that folds them."""
