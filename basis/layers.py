"""Treat convolutions and linear layers alike: their stored tensor, their geometry, and their inputs as maps.

A layer is *regular* if its output depends on its input and its stored tensor as in ``nn.Conv2d`` or ``nn.Linear``. Only
then do samples of its inputs describe its outputs. Other layers are neither replaced nor fitted, and are rounded to the
nearest.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.computed import ComputedConv2d
from basis.conv import SeriesConv2d
from basis.regular import irregularity


def stored_tensor_name(module: nn.Module) -> str | None:
    """Return the name of a layer's stored tensor; None for other modules.

    Returns:
        ``coefficients`` for a convolution that computes its filters, ``weight`` for another one or a linear layer. A
        layer whose weight is neither a parameter nor a buffer, such as a property of its class, has none.
    """
    if isinstance(module, ComputedConv2d):
        return "coefficients"
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return None
    registered = any(isinstance(tensors.get("weight"), Tensor) for tensors in (module._parameters, module._buffers))
    return "weight" if registered or parametrize.is_parametrized(module, "weight") else None


def stored_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers with a stored tensor by name, in network order; layers that share one appear once.

    Layers without values, such as a classifier of no classes, are left out.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if stored_tensor_name(module) is None:
            continue
        master = master_tensor(module)
        if id(master) not in seen and not (isinstance(master, Tensor) and master.numel() == 0):
            seen.add(id(master))
            found[name] = module
    return found


def hessian_layers(model: nn.Module, max_features: int) -> dict[str, nn.Module]:
    """Return the regular layers whose Hessian has at most so many rows, by name, in network order."""
    return {
        name: layer
        for name, layer in stored_layers(model).items()
        if is_regular(layer) and stored_values(layer)[0].numel() <= max_features
    }


def master_tensor(module: nn.Module) -> Tensor:
    """Return the tensor that is trained: the stored tensor, or the original of its parametrization."""
    name = str(stored_tensor_name(module))
    if parametrize.is_parametrized(module, name):
        chain = cast(nn.ModuleDict, module.parametrizations)[name]
        return cast(Tensor, getattr(chain, "original", chain))
    return stored_values(module)


def is_regular(module: nn.Module) -> bool:
    """Return True for a series convolution, and for a convolution or linear layer without an irregularity.

    Filters of a parametric family are not linear in the stored values, so such a convolution is not regular.
    """
    if isinstance(module, ComputedConv2d):
        return isinstance(module, SeriesConv2d)
    return stored_tensor_name(module) is not None and irregularity(module) is None


def stored_values(module: nn.Module) -> Tensor:
    """Return a layer's stored tensor, (O, ...)."""
    return cast(Tensor, getattr(module, str(stored_tensor_name(module))))


def stored_columns(layer: nn.Module) -> Tensor:
    """Return the stored values and the bias (or 0) as columns, float64, (groups, F, O / groups)."""
    rows = stored_values(layer).flatten(1)
    bias = torch.zeros_like(rows[:, 0]) if layer.bias is None else cast(Tensor, layer.bias)
    columns = torch.cat([rows, bias[:, None]], dim=1).to(torch.float64)
    stored: Tensor = columns.unflatten(0, (geometry(layer).groups, -1)).mT
    return stored


def layer_operator(module: nn.Module) -> Tensor | None:
    """Return the matrix (kh kw, n) from a slice's coefficients to its kernel; None if the kernel itself is stored."""
    return module.operator if isinstance(module, SeriesConv2d) else None


def geometry(module: nn.Module) -> nn.Conv2d:
    """Return a convolution with the geometry of a layer: itself, or for a linear layer a 1x1 one without values."""
    if isinstance(module, nn.Linear):
        return nn.Conv2d(module.in_features, module.out_features, 1, bias=False, device="meta")
    return cast(nn.Conv2d, module)


def as_maps(module: nn.Module, values: Tensor) -> Tensor:
    """View a layer's inputs or outputs as maps.

    Args:
        module: The layer.
        values: (N, C, H, W) for a convolution; (N, ..., C) for a linear layer.

    Returns:
        (N, C, H, W); for a linear layer (N, C, P, 1), with P the number of rows of each image.
    """
    if not isinstance(module, nn.Linear):
        return values
    rows = values.unsqueeze(1) if values.ndim == 2 else values.flatten(1, -2)
    return rows.mT.unsqueeze(-1)
