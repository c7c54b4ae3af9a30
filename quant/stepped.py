"""The number format of rows of a target size: integers of any size with one step per term of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from basis.errors import CompressionError
from quant.grid import MAX_EXPONENT, MIN_EXPONENT, grid_values

LARGEST_INTEGER = 2**24 - 1
"""Integers up to this size are exact in float32."""


@dataclass(frozen=True)
class SteppedFormat:
    """Integers without a fixed width; the entropy coder decides how many bits each value takes."""

    scheme: ClassVar[str] = "stepped"

    def __str__(self) -> str:
        return "coded integers"


@dataclass(frozen=True, eq=False)
class SteppedTensor:
    """Integers and one step per term: value = integer x 2^(exponent / 16).

    Args:
        integers: int32, any shape of one or more axes, magnitudes of at most ``LARGEST_INTEGER``.
        exponents: int16, in ``MIN_EXPONENT..MAX_EXPONENT``. Shape (nh, nw) for integers (O, I, nh, nw), one step for
            each term or kernel tap; shape () for one step for all.

    Raises:
        CompressionError: Types, shapes or ranges are not as above.
    """

    integers: Tensor
    exponents: Tensor
    format: ClassVar[SteppedFormat] = SteppedFormat()

    def __post_init__(self) -> None:
        integers, exponents = self.integers, self.exponents
        if integers.dtype != torch.int32 or integers.ndim < 1 or integers.numel() == 0:
            raise CompressionError(
                f"SteppedTensor: integers of type {integers.dtype} and shape {tuple(integers.shape)}; allowed: a "
                "non-empty int32 tensor of one or more axes"
            )
        low, high = (int(bound) for bound in integers.aminmax())
        if max(-low, high) > LARGEST_INTEGER:
            raise CompressionError(
                f"SteppedTensor: integers in {low}..{high}; allowed: magnitudes of at most {LARGEST_INTEGER}"
            )
        fits = exponents.ndim == 0 or (integers.ndim == 4 and exponents.shape == integers.shape[2:])
        if exponents.dtype != torch.int16 or not fits:
            raise CompressionError(
                f"SteppedTensor: exponents of type {exponents.dtype} and shape {tuple(exponents.shape)} for integers "
                f"of shape {tuple(integers.shape)}; allowed: int16, () or (nh, nw) for (O, I, nh, nw)"
            )
        first, last = (int(bound) for bound in exponents.aminmax())
        if first < MIN_EXPONENT or last > MAX_EXPONENT:
            raise CompressionError(
                f"SteppedTensor: exponents in {first}..{last}; allowed: {MIN_EXPONENT}..{MAX_EXPONENT}"
            )

    def dequantize(self) -> Tensor:
        """Return the stored values, float32, shape of ``integers``: an exact conversion and one product."""
        return self.integers.to(torch.float32) * grid_values(self.exponents).to(self.integers.device)

    def cpu(self) -> SteppedTensor:
        """Return the same tensor on the CPU."""
        return SteppedTensor(self.integers.cpu(), self.exponents.cpu())
