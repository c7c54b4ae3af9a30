"""Copy networks."""

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

_HOOKS: Final = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def copy_network(model: nn.Module) -> nn.Module:
    """Copy a network with its hooks, its modes and the tensors that it keeps in attributes.

    ``copy.deepcopy`` alone drops the hooks and the mode of graphs that torch.fx traced. It also refuses tensors with a
    gradient graph, such as a feature map that a forward keeps. A compiled method in an attribute, as in
    ``self.forward = torch.compile(self.forward)``, would stay the method of the original; the copy has the plain one.

    Args:
        model: The network.

    Returns:
        The copy; kept tensors have no gradient graph in it.

    Example:
        >>> trial = copy_network(net).eval()
    """
    memo = _without_graphs(model)
    duplicate = copy.deepcopy(model, memo)
    for own, other in zip(model.modules(), duplicate.modules(), strict=True):
        if isinstance(own, GraphModule):
            vars(other).update({hooks: copy.deepcopy(vars(own)[hooks], memo) for hooks in _HOOKS})
            if other.training != own.training:
                other.train(own.training)  # torchvision's feature extractors have a graph for each mode
    for own, other in zip(model.modules(), duplicate.modules(), strict=True):
        if "training" in vars(own):
            other.training = own.training
        vars(other).update({name: copy.deepcopy(method, memo) for name, method in compiled_attributes(own).items()})
    return duplicate


def compiled_attributes(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """Return the functions in a module's own attributes that ``torch.compile`` has compiled: name -> the plain one."""
    found = {name: plain_function(value) for name, value in vars(module).items()}
    return {name: function for name, function in found.items() if function is not None}


def plain_function(value: object) -> Callable[..., Any] | None:
    """Return the function from which ``torch.compile`` made a value; None for any other value."""
    if not isinstance(value, FunctionType) or getattr(value, "_torchdynamo_disable", False):
        return None
    plain: Callable[..., Any] | None = getattr(value, "_torchdynamo_orig_callable", None)
    return plain


def has_graph(value: object) -> bool:
    """Return True for a tensor that was computed with a gradient graph."""
    return isinstance(value, Tensor) and not value.is_leaf


def _without_graphs(model: nn.Module) -> dict[int, Any]:
    """Return copies of the kept tensors with a graph, by id, as a memo for ``copy.deepcopy``."""
    leaves = (leaf for module in model.modules() for leaf in tree_leaves(vars(module)))
    return {id(leaf): leaf.detach().clone() for leaf in leaves if has_graph(leaf)}
