"""Round vectors of floats, such as biases, to integers times a step."""

import torch
from torch import Tensor

from quant.grid import grid_values, step_exponent
from quant.stepped import LARGEST_INTEGER, SteppedTensor

BIAS_ERROR = 2.0**-9
"""Largest error of a bias, as a share of the layer's largest bias: half a step of an integer from -256 to 256."""


def to_steps(values: Tensor, exponent: int) -> SteppedTensor | None:
    """Round values to the nearest multiples of a step; None if an integer would be too large.

    Args:
        values: Finite, float64, one axis.
        exponent: Exponent of the step on the grid of ``quant.grid``.
    """
    step = torch.tensor(exponent, dtype=torch.int16)
    integers = (values / grid_values(step).to(torch.float64)).round()
    if not bool((integers.abs() <= LARGEST_INTEGER).all()):
        return None
    return SteppedTensor(integers.to(torch.int32), step)


def record_bias(bias: Tensor) -> SteppedTensor | None:
    """Round a layer's bias within ``BIAS_ERROR``; None if it is not finite.

    Args:
        bias: (channels,), any float type.
    """
    values = bias.detach().cpu().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        return None
    return to_steps(values, step_exponent(2 * BIAS_ERROR * float(values.abs().max())))
