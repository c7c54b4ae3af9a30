"""Give the scales of batch normalizations few values, and round their shifts while the later layers can compensate.

A batch normalization scales each channel by ``weight / sqrt(var + eps)``. If the layer before it is multiplied by f,
and the scale divided by f, the network computes the same. So every scale of a normalization can be one of a few
multiples of one step, which take a third of the bits in a file.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn

from basis.additions import tensors_in
from basis.copying import copy_network
from basis.layers import master_tensor, stored_layers, stored_values
from basis.modes import evaluation_mode
from quant.grid import grid_exponents, grid_values, step_exponent
from quant.normalizations import Normalization, allowed_change, coded_normalizations
from quant.original_pass import OriginalPass

LEVELS: Final = 5
"""Median of the scales of a normalization, in steps. The largest is then about 8 steps in ResNet-20."""
_IMAGES: Final = 2
"""Images that are passed through both networks to see that they compute the same."""
_TOLERANCE: Final = 1e-3
"""Largest difference of their outputs on the CPU, as a share of the largest output."""
_TF32_TOLERANCE: Final = 1e-2
"""The same on other devices: CUDA rounds factors to TF32 by default, which gives 1e-3 with 31 convolutions."""


@torch.no_grad()
def with_coarse_scales(model: nn.Module, original: OriginalPass) -> nn.Module:
    """Multiply the layers before batch normalizations so that the scales are multiples of coarse steps.

    Only normalizations that alone read a layer's output are changed; see ``basis.original_outputs``. If the network
    then computes something else, because other code reads its tensors, it stays as it is.

    Args:
        model: The network to round, with the original's values; it is not changed.
        original: The original's pass. The outputs of the changed layers are multiplied in place.

    Returns:
        A changed copy of the network, or the network itself.
    """
    scaled = copy_network(model)
    factors, images = _scale(scaled, original.outputs.norms), original.images[:_IMAGES]
    if not factors:
        return model
    changed = torch.tensor(float(not _computes_the_same(model, scaled, images)), device=images.device)
    if float(original.shard.reduce(changed)) > 0:
        return model
    for name, factor in factors.items():
        rows = original.outputs.outputs[name]
        rows.mul_(factor.to(rows).view(len(rows), 1, -1))
    return scaled


def _scale(model: nn.Module, norms: Mapping[str, str]) -> dict[str, Tensor]:
    """Change the network in place; return the factor of each channel of the changed layers by name."""
    coded, layers = coded_normalizations(model), stored_layers(model)
    uses = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
    factors = {}
    for name, norm in norms.items():
        if norm not in coded:
            continue
        layer = layers[name]
        tensors = [stored_values(layer)] + ([] if layer.bias is None else [cast(Tensor, layer.bias)])
        if master_tensor(layer) is tensors[0] and all(uses[id(tensor)] == 1 for tensor in tensors):
            factors[name] = factor = _coarsen(coded[norm])
            for tensor in tensors:
                tensor.mul_(factor.view(-1, *[1] * (tensor.ndim - 1)))
    return factors


def _coarsen(norm: Normalization) -> Tensor:
    """Make the scales of a normalization multiples of one step; return the factors of the channels before it.

    The weight stays the deviation of the output, where the variance after the factor is above epsilon.
    """
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    deviation = (var.to(torch.float64) + norm.eps).sqrt()
    scale = norm.weight.to(torch.float64) * (1 + norm.eps) ** 0.5 / deviation
    positive = scale.abs()[scale != 0]
    if not len(positive):
        return torch.ones_like(var)
    step = grid_values(grid_exponents(positive.median() / LEVELS)).to(scale)
    levels = (scale / step).round()
    levels = torch.where(levels == 0, torch.where(scale < 0, -1.0, 1.0), levels)
    factor = scale / (levels * step)
    var.copy_(((factor * deviation).square() - norm.eps).clamp_min(0))
    norm.weight.copy_(levels * step * (var.to(torch.float64) + norm.eps).sqrt() / (1 + norm.eps) ** 0.5)
    mean.mul_(factor.to(mean))
    factors: Tensor = factor.to(var)
    return factors


def _computes_the_same(first: nn.Module, second: nn.Module, images: Tensor) -> bool:
    outputs, tolerance = [], _TOLERANCE if images.device.type == "cpu" else _TF32_TOLERANCE
    for model in (first, second):
        with evaluation_mode(model):
            outputs.append([tensor.float() for tensor in tensors_in(model(images))])
    return all(
        a.shape == b.shape and bool(((a - b).abs() <= tolerance * a.abs().max()).all())
        for a, b in zip(*outputs, strict=True)
    )


class ShiftRounding:
    """Rounds the constants that running means absorb, so that the shift of each channel is a multiple of one step.

    The layers after it are fitted to the rounded network, so they compensate for the error.

    Args:
        model: The network before its rounding.
        norms: Layer name -> name of the normalization that absorbs its constant.
        error: Largest error of an output; see ``pipeline.artifact.batchnorm.normalization_error``.
    """

    def __init__(self, model: nn.Module, norms: Mapping[str, str], error: float) -> None:
        coded, layers = coded_normalizations(model), stored_layers(model)
        self._error = error
        self._norms = {
            name: coded[norm]
            for name, norm in norms.items()
            if norm in coded and name in layers and layers[name].bias is None
        }
        self._means = {name: cast(Tensor, norm.running_mean).to(torch.float64) for name, norm in self._norms.items()}

    def rounded(self, name: str, columns: Tensor) -> Tensor:
        """Return the columns of a layer with other constants.

        Args:
            name: The layer.
            columns: Stored values and, as the last feature, the constant: float64, (groups, F + 1, O / groups).
        """
        norm = self._norms.get(name)
        if norm is None:
            return columns
        mean, constant = self._means[name], columns[:, -1].flatten()
        bias, var = norm.bias.detach().to(torch.float64), cast(Tensor, norm.running_var).to(torch.float64)
        scale = norm.weight.detach().to(torch.float64) / (var + norm.eps).sqrt()
        step = grid_values(torch.tensor(step_exponent(2 * allowed_change(norm, self._error)))).to(scale)
        wanted = mean - (bias - ((bias - (mean - constant) * scale) / step).round() * step) / scale
        # In a channel of a small scale, a small shift of the output would be a large constant of the layer.
        coarse = scale.abs() > 0.5 / LEVELS * scale.abs().median()
        constants = torch.where(coarse, wanted, constant).view_as(columns[:, -1:])
        return torch.cat([columns[:, :-1], constants], dim=1)
