"""Weights besides those of convolutions and linear layers that are large enough to be rounded like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from basis.layers import master_tensor, stored_layers, stored_values

LEAST_SHARE: Final = 1 / 144
"""Least number of such values, as a share of the values of convolutions and linear layers.

At this share, values of 32 bits take a tenth of a file whose other values have 2 bits.
"""
_LAYERS: Final = (
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.Bilinear,
    nn.MultiheadAttention,
)
_MOST_AXES: Final = 5  # of a coded tensor in the table of an artifact


def other_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the further parameters that are rounded to nearest: name -> parameter, in network order.

    The weights of transposed, 1-d and 3-d convolutions, of recurrent and embedding layers and of attention are taken
    together. Parameters of other modules, such as position embeddings, are taken if one alone is large enough.

    Args:
        model: The network, with or without fake quantizers.
    """
    values = sum(stored_values(layer).numel() for layer in stored_layers(model).values())
    of_layers = weights_by_kind(model, of_layers=True)
    found = of_layers if sum(map(Tensor.numel, of_layers.values())) >= LEAST_SHARE * values else {}
    others = weights_by_kind(model, of_layers=False)
    found |= {name: each for name, each in others.items() if each.numel() >= LEAST_SHARE * values}
    return {name: found[name] for name, _ in model.named_parameters() if name in found}


def weights_by_kind(model: nn.Module, *, of_layers: bool) -> dict[str, nn.Parameter]:
    """Return float parameters of two or more axes of values besides the weights of convolutions and linear layers.

    Args:
        model: The network.
        of_layers: True for the weights of layers that torch defines, False for those of other modules.
    """
    stored = {id(p) for layer in stored_layers(model).values() for p in _of_stored_tensor(layer)}
    found: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            fits = parameter.is_floating_point() and parameter.ndim <= _MOST_AXES and not is_vector(parameter)
            if fits and id(parameter) not in stored and isinstance(module, _LAYERS) == of_layers:
                stored.add(id(parameter))
                found[f"{prefix}.{name}" if prefix else name] = parameter
    return found


def _of_stored_tensor(layer: nn.Module) -> list[Tensor]:
    """Return the stored tensor of a layer, and the parameters of a fake quantizer of it.

    A layer of a class of its own may have further ones, such as updates of low rank.
    """
    return [master_tensor(layer), *(p for name, p in layer.named_parameters() if name.startswith("parametrizations."))]


def is_vector(parameter: nn.Parameter) -> bool:
    """Return True if a parameter has at most one axis of more than one value."""
    return max(parameter.shape, default=1) == parameter.numel()


def set_weights(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set parameters to stored values and exclude them from training, in place."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].requires_grad_(False)
        parameters[name].data.copy_(value)
