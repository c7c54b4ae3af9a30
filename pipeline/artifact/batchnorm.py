"""Convert batch normalization to the scale and shift per channel that an artifact stores, as integers times a step.

    weight' = gamma / sqrt(var + eps) * sqrt(1 + eps),   bias' = beta - mean * gamma / sqrt(var + eps)

``gamma``, ``beta``, ``mean`` and ``var``, each (C,), are weight, bias, running mean and running variance of the module
and ``eps`` is its epsilon. A module with ``weight'``, ``bias'``, mean 0 and variance 1 computes the same function.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basis.errors import NumericalError
from basis.regular import irregularity
from pipeline.artifact.vectors import step_exponent, to_steps
from quant.grid import PER_OCTAVE
from quant.stepped import SteppedTensor

NORMALIZATION_ERROR = 2.0**-8
"""Largest error of a channel's output, as a share of the layer's largest ``|gamma| + |beta|``.

The error is measured at one standard deviation from the channel's mean. The share is half a step of an 8-bit signed
integer whose range is the layer's largest output.
"""

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class NormalizationRecord:
    """A batch normalization whose running mean is 0 and whose running variance is 1.

    Attributes:
        name: Name of the module in the network.
        weight: (channels,), with one step.
        bias: (channels,), with one step.
    """

    name: str
    weight: SteppedTensor
    bias: SteppedTensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the four tensors of the module, float32, by their names in the network."""
        weight, bias = self.weight.dequantize(), self.bias.dequantize()
        values = {"weight": weight, "bias": bias, "running_mean": torch.zeros_like(bias)}
        values["running_var"] = torch.ones_like(bias)
        return {f"{self.name}.{part}": value for part, value in values.items()}


def record_normalizations(model: nn.Module, error: float = NORMALIZATION_ERROR) -> tuple[NormalizationRecord, ...]:
    """Return scale and shift of every batch normalization with finite weight, bias, mean and variance of its own.

    Modules of subclasses, irregular modules and modules that share a tensor are left out, and so stay as they are. So
    do modules whose values need integers larger than ``quant.stepped.LARGEST_INTEGER`` at this error.

    Args:
        model: The network.
        error: Largest error; see ``NORMALIZATION_ERROR``.

    Raises:
        NumericalError: A running variance plus epsilon is not above 0.
    """
    uses = Counter(id(tensor) for module in model.modules() for tensor in _own_tensors(module))
    found = (
        _record(name, module, error)
        for name, module in model.named_modules()
        if isinstance(module, _KINDS)
        and type(module) in _KINDS
        and irregularity(module) is None
        and _is_whole(module, uses)
    )
    return tuple(record for record in found if record is not None)


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensors in (module._parameters, module._buffers):
        yield from (tensor for tensor in tensors.values() if tensor is not None)


def _is_whole(module: nn.modules.batchnorm._BatchNorm, uses: Counter[int]) -> bool:
    """Return True if the module has all four tensors, finite and not shared with another module."""
    own = {**module._parameters, **module._buffers}
    four = [own.get(part) for part in ("weight", "bias", "running_mean", "running_var")]
    return all(t is not None and uses[id(t)] == 1 and bool(torch.isfinite(t).all()) for t in four)


@torch.no_grad()
def _record(name: str, module: nn.modules.batchnorm._BatchNorm, error: float) -> NormalizationRecord | None:
    """Find the coarsest steps of scale and shift whose output error is at most ``error``.

    The first steps bound the error of each by half of it.
    """
    weight, bias, mean, var = (
        getattr(module, part).detach().cpu().to(torch.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    lowest = float(var.min())
    if lowest + module.eps <= 0:
        raise NumericalError(
            f"batch normalization {name!r}: running variance of {lowest:.6g}; allowed: above -{module.eps:.6g}, so "
            "that its sum with epsilon has a root"
        )
    deviation = (var + module.eps).sqrt()
    reach = mean.abs() + deviation
    scale = weight / deviation
    exact = (scale * (1 + module.eps) ** 0.5, bias - mean * scale)
    allowed = error * float((weight.abs() + bias.abs()).max())
    first = step_exponent(allowed / float(reach.max())), step_exponent(allowed)
    # The first steps are for the largest errors in one channel, which rarely meet: up to an octave more may do.
    for coarser in range(PER_OCTAVE, -2, -1):
        scales, shifts = (to_steps(values, exponent + coarser) for values, exponent in zip(exact, first, strict=True))
        if scales is None or shifts is None:
            return None
        moved = (scales.dequantize() - exact[0]).abs() * reach + (shifts.dequantize() - exact[1]).abs()
        if bool((moved <= allowed).all()):
            return NormalizationRecord(name, scales, shifts)
    return None
