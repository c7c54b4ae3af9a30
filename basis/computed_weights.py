"""Replace weights that a network computes from other tensors by plain parameters.

Weight normalization, spectral normalization and pruning masks compute a layer's weight at every pass. PyTorch has two
forms of them: parametrizations, and older forward hooks.
"""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm


def copied(model: nn.Module) -> nn.Module:
    """Copy a network, also one whose last pass left computed weights with a graph, which ``copy.deepcopy`` refuses."""
    tensors = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in tensors if not value.is_leaf})


def store_computed_weights(model: nn.Module, wanted: Callable[[str], bool] = lambda name: True) -> nn.Module:
    """Replace computed tensors by parameters with their present values, in place.

    Args:
        model: The network, in evaluation mode. Copies of it are left as they are.
        wanted: Selects tensors by name, such as ``conv1.weight``; by default all.

    Returns:
        The network.
    """
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        if parametrize.is_parametrized(module):
            for name in list(cast(nn.ModuleDict, module.parametrizations)):
                if wanted(prefix + name):
                    _remove_parametrization(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            _remove_hook(module, hook, lambda name, prefix=prefix: wanted(prefix + name))  # type: ignore[misc]
    return model


def _remove_parametrization(module: nn.Module, name: str) -> None:
    # A copy of a parametrized module has the same class, and removing deletes the property of the class.
    kind = type(module)
    module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)


@torch.no_grad()
def _remove_hook(module: nn.Module, hook: object, wanted: Callable[[str], bool]) -> None:
    if isinstance(hook, WeightNorm) and wanted(hook.name):
        remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm) and wanted(hook.name):
        remove_spectral_norm(module, hook.name)
    elif isinstance(hook, prune.BasePruningMethod) and wanted(str(hook._tensor_name)):
        prune.remove(module, str(hook._tensor_name))
