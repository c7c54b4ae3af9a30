"""Find values of a network that no file holds: in plain attributes, and buffers that are not persistent."""

from collections.abc import Callable, Iterator, Set
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pipeline.models.checks.registration import OWN


def changing_tensor(model: nn.Module, build: Callable[[], nn.Module]) -> str | None:
    """Return the name of a value that no file holds and that differs each time the network is built.

    Args:
        model: The network as it was built.
        build: Builds it again with other random numbers. It is called only if the network has such values.

    Returns:
        The first name; None if there is none.
    """
    own = dict(_unstored(model))
    if not own:
        return None
    other = dict(_unstored(build()))
    return next((name for (name, place), value in own.items() if not _same(value, other.get((name, place)))), None)


def _unstored(model: nn.Module) -> Iterator[tuple[tuple[str, int], Tensor | np.ndarray]]:
    """Yield name, place in the value of that name, and value, for tensors and arrays outside the state dict.

    A list of numbers counts as an array, for example an order of channels, but not in a module of torch.

    Values that a network computes from its parameters, as old weight normalization does, and views of them are left
    out.
    """
    buffers, in_state = dict(model.named_buffers()), model.state_dict().keys()
    stored = [*model.parameters(), *(buffer for name, buffer in buffers.items() if name in in_state)]
    memory = {tensor.untyped_storage().data_ptr() for tensor in filter(_is_comparable, stored)}
    values: dict[str, object] = {name: buffer for name, buffer in buffers.items() if name not in in_state}
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in OWN}
        if not type(module).__module__.startswith("torch."):
            own = {name: np.array(value) if _is_list_of_numbers(value) else value for name, value in own.items()}
        values |= {".".join(filter(None, (path, name))): value for name, value in own.items()}
    for name, value in values.items():
        for place, leaf in enumerate(tree_leaves(value)):
            if _is_comparable(leaf) and not _is_computed(leaf, memory):
                yield (name, place), leaf


def _is_list_of_numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(type(each) in (int, float) for each in value)


def _is_computed(value: Tensor | np.ndarray, memory: Set[int]) -> bool:
    """Return True for a parameter, and for a tensor that was computed from one or is in memory of the state dict."""
    if isinstance(value, np.ndarray):
        return False
    follows = isinstance(value, nn.Parameter) or value.grad_fn is not None
    return follows or value.untyped_storage().data_ptr() in memory


def _is_comparable(value: object) -> bool:
    if isinstance(value, Tensor):
        return not is_lazy(value) and value.layout == torch.strided and not value.is_nested and not value.is_meta
    return isinstance(value, np.ndarray)


def _same(one: Tensor | np.ndarray, other: Tensor | np.ndarray | None) -> bool:
    """Return True for equal values, and if the other network has no value of the same type to compare with."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one.cpu(), other.cpu())
    return type(one) is not type(other) or np.array_equal(cast(np.ndarray, one), cast(np.ndarray, other))
