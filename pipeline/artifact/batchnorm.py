"""Convert batch normalization to the scale and shift per channel that an artifact stores, as integers times a step.

    weight' = gamma / sqrt(var + eps) * sqrt(1 + eps),   bias' = beta - mean * gamma / sqrt(var + eps)

``gamma``, ``beta``, ``mean`` and ``var``, each (C,), are weight, bias, running mean and running variance of the module
and ``eps`` is its epsilon. A module with ``weight'``, ``bias'``, mean 0 and variance 1 computes the same function.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from basis.errors import NumericalError
from pipeline.artifact.vectors import to_steps
from quant.grid import PER_OCTAVE, grid_values, step_exponent
from quant.normalizations import Normalization, allowed_change, coded_normalizations
from quant.stepped import SteppedTensor

COARSE_BITS: Final = 1.25
"""Bits per value of a file below which batch normalizations are coarse: the integers' error is far larger."""
_EXACT: Final = 2.0**-10
"""Largest error of a multiple of a step, as a share of the largest error of the output: that of float32."""


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


def normalization_error(bits: float) -> float:
    """Return the largest error of a channel's output, as a share of the layer's largest ``|gamma| + |beta|``.

    The error is measured at one standard deviation from the channel's mean. It falls with that of the layers' values:
    2^-8 up to 4 bits per value, half of it for each bit more, and 2^-11 above 6 bits. See docs/method.md for figures.

    Args:
        bits: Bits per value of the layers. A fixed width b counts as b - 1: most of its integers are small.
    """
    return 2.0**-6 if bits < COARSE_BITS else 2.0 ** -(4 + min(max(math.ceil(bits), 4), 7))


def record_normalizations(model: nn.Module, error: float) -> tuple[NormalizationRecord, ...]:
    """Return scale and shift of the batch normalizations of ``quant.normalizations.coded_normalizations``.

    Modules whose values need integers larger than ``quant.stepped.LARGEST_INTEGER`` at this error are left out. They
    and all other normalizations stay as they are.

    Args:
        model: The network.
        error: Largest error; see ``normalization_error``.

    Raises:
        NumericalError: A running variance plus epsilon is not above 0.
    """
    found = (_record(name, module, error) for name, module in coded_normalizations(model).items())
    return tuple(record for record in found if record is not None)


@torch.no_grad()
def _record(name: str, module: Normalization, error: float) -> NormalizationRecord | None:
    """Find the coarsest steps of scale and shift whose output error is at most ``error``.

    The first steps bound the error of each by half of it. Scales that are multiples of a coarser step, as those of
    ``quant.coarse_scales``, have that one.
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
    allowed = allowed_change(module, error)
    first = step_exponent(allowed / float(reach.max())), step_exponent(allowed)
    coarse = _multiples(exact[0], first[0] + PER_OCTAVE, _EXACT * allowed / reach)
    # The first steps are for the largest errors in one channel, which rarely meet: up to an octave more may do.
    for coarser in range(PER_OCTAVE, -2, -1):
        scales, shifts = coarse or to_steps(exact[0], first[0] + coarser), to_steps(exact[1], first[1] + coarser)
        if scales is None or shifts is None:
            return None
        moved = (scales.dequantize() - exact[0]).abs() * reach + (shifts.dequantize() - exact[1]).abs()
        if bool((moved <= allowed).all()):
            return NormalizationRecord(name, scales, shifts)
    return None


def _multiples(values: Tensor, above: int, errors: Tensor) -> SteppedTensor | None:
    """Return values that are multiples of one step, with the coarsest such step; None if there is none.

    Args:
        values: (channels,), float64.
        above: Exponent that the step's must exceed.
        errors: Largest error of each value, (channels,).
    """
    largest = step_exponent(float(values.abs().max()))
    exponents = torch.arange(largest, min(above, largest), -1)
    steps = grid_values(exponents).to(torch.float64)[:, None]
    fitting = (((values / steps).round() * steps - values).abs() <= errors).all(1)
    return to_steps(values, int(exponents[fitting][0])) if bool(fitting.any()) else None
