"""Copy networks."""

import copy
from typing import Any, Final

from torch import nn
from torch.fx import GraphModule

_FORWARD_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")


def copy_network(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copy a network with its hooks. ``copy.deepcopy`` alone drops those of graphs that torch.fx traced.

    Args:
        model: The network.
        memo: Objects that are copied already, by id, as for ``copy.deepcopy``.

    Returns:
        The copy.

    Example:
        >>> trial = copy_network(net).eval()
    """
    memo = {} if memo is None else memo
    duplicate = copy.deepcopy(model, memo)
    for own, other in zip(model.modules(), duplicate.modules(), strict=True):
        if isinstance(own, GraphModule):
            vars(other).update({hooks: copy.deepcopy(vars(own)[hooks], memo) for hooks in _FORWARD_HOOKS})
    return duplicate
