"""Convert batch normalization to the scale and shift per channel that an artifact stores, in float16 if possible.

    weight' = gamma / sqrt(var + eps) * sqrt(1 + eps),   bias' = beta - mean * gamma / sqrt(var + eps)

``gamma``, ``beta``, ``mean`` and ``var``, each (C,), are weight, bias, running mean and running variance of the module
and ``eps`` is its epsilon. A module with ``weight'``, ``bias'``, mean 0 and variance 1 computes the same function.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FLOAT16_ERROR = 2.0**-8
"""Largest error for which float16 is used, as a share of the layer's largest ``|gamma| + |beta|``.

The error is that of a channel's output at one standard deviation from its mean. The share is half a step of an 8-bit
signed integer whose range is the layer's largest output.
"""

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class NormalizationRecord:
    """A batch normalization whose running mean is 0 and whose running variance is 1.

    Attributes:
        name: Name of the module in the network.
        weight: (channels,), float16 or float32.
        bias: (channels,), of the type of ``weight``.
    """

    name: str
    weight: Tensor
    bias: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the four tensors of the module, float32, by their names in the network."""
        weight, bias = self.weight.float(), self.bias.float()
        values = {"weight": weight, "bias": bias, "running_mean": torch.zeros_like(bias)}
        values["running_var"] = torch.ones_like(bias)
        return {f"{self.name}.{part}": value for part, value in values.items()}


def record_normalizations(model: nn.Module) -> tuple[NormalizationRecord, ...]:
    """Return scale and shift of every batch normalization with finite weight, bias, mean and variance of its own.

    Modules of subclasses and modules that share a tensor are left out, and so stay as they are.
    """
    uses = Counter(id(tensor) for module in model.modules() for tensor in _own_tensors(module))
    return tuple(
        _record(name, module)
        for name, module in model.named_modules()
        if isinstance(module, _KINDS) and type(module) in _KINDS and _is_whole(module, uses)
    )


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensors in (module._parameters, module._buffers):
        yield from (tensor for tensor in tensors.values() if tensor is not None)


def _is_whole(module: nn.modules.batchnorm._BatchNorm, uses: Counter[int]) -> bool:
    """Return True if the module has all four tensors, finite and not shared with another module."""
    own = {**module._parameters, **module._buffers}
    four = [own.get(part) for part in ("weight", "bias", "running_mean", "running_var")]
    return all(t is not None and uses[id(t)] == 1 and bool(torch.isfinite(t).all()) for t in four)


@torch.no_grad()
def _record(name: str, module: nn.modules.batchnorm._BatchNorm) -> NormalizationRecord:
    weight, bias, mean, var = (
        getattr(module, part).detach().cpu().to(torch.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    deviation = (var + module.eps).sqrt()
    scale = weight / deviation
    shift = bias - mean * scale
    stored = (scale * (1 + module.eps) ** 0.5, shift)
    errors = [(value - value.half().to(torch.float64)).abs() for value in stored]
    moved = errors[0] * (mean.abs() + deviation) + errors[1]
    enough = bool((moved <= FLOAT16_ERROR * (weight.abs() + bias.abs()).max()).all())
    kind = torch.float16 if enough else torch.float32
    return NormalizationRecord(name, stored[0].to(kind), stored[1].to(kind))
