"""Batch normalization as an artifact stores it: scale and shift per channel, in float16 where that is enough."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# A channel's outputs may move by less than half a step of 8 bits of the layer's largest output.
FLOAT16_ERROR = 2.0**-8

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class NormalizationRecord:
    """A batch normalization whose running mean is 0 and whose running variance is 1.

    Attributes:
        name: As in ``named_modules``.
        weight: One value per channel, float16 or float32.
        bias: One value per channel, of the same type.
    """

    name: str
    weight: Tensor
    bias: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The module's four tensors by their names in the network, in float32."""
        weight, bias = self.weight.float(), self.bias.float()
        values = {"weight": weight, "bias": bias, "running_mean": torch.zeros_like(bias)}
        values["running_var"] = torch.ones_like(bias)
        return {f"{self.name}.{part}": value for part, value in values.items()}


def record_normalizations(model: nn.Module) -> tuple[NormalizationRecord, ...]:
    """Take the scale and shift of every batch normalization that has running statistics, weight and bias of its own."""
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
    """Whether the module holds its four tensors itself, finite and shared with no other module."""
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
