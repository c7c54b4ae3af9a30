"""The batch normalizations of a network that a file holds as a scale and a shift for each channel."""

from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from basis.regular import irregularity

Normalization: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def coded_normalizations(model: nn.Module) -> dict[str, Normalization]:
    """Return the batch normalizations with finite weight, bias, mean and variance of their own, by name.

    Modules of subclasses, irregular modules and modules that share a tensor are left out.
    """
    uses = Counter(id(tensor) for module in model.modules() for tensor in _own_tensors(module))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _KINDS)
        and type(module) in _KINDS
        and irregularity(module) is None
        and _is_whole(module, uses)
    }


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensors in (module._parameters, module._buffers):
        yield from (tensor for tensor in tensors.values() if tensor is not None)


def _is_whole(module: Normalization, uses: Counter[int]) -> bool:
    """Return True if the module has all four tensors, finite and not shared with another module."""
    own = {**module._parameters, **module._buffers}
    four = [own.get(part) for part in ("weight", "bias", "running_mean", "running_var")]
    return all(t is not None and uses[id(t)] == 1 and bool(torch.isfinite(t).all()) for t in four)


def allowed_change(module: Normalization, error: float) -> float:
    """Return the largest change of an output for an error as a share of the layer's largest ``|gamma| + |beta|``."""
    return error * float((module.weight.detach().abs() + module.bias.detach().abs()).max())
