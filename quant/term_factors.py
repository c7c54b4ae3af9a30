"""Divide a layer's coefficients by one factor per term before rounding, so that one scale suits all terms.

The terms of a series differ. On a 3x3 kernel the constant term changes the outputs most, the product of two first
cosines least, and their coefficients differ in size. One scale per output channel is then too coarse for one term and
needlessly fine for another. The integers therefore store the coefficients divided by a factor of their term. All
channels of a layer share the factors:

    coefficient = integer * scale[output channel] * 2^(exponent[term] / 4)
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from basis.errors import CompressionError
from quant.fake_quantizer import FakeQuantizer
from quant.formats import IntFormat, QuantizedTensor, check_weight, term_factors
from quant.gptq import gptq
from quant.schemes import FixedTensor
from quant.sweeps import inverse_root

# Exponents of sensitivity and magnitude in the factor of a term: fine steps for sensitive outputs, coarse steps for
# large coefficients.
_SENSITIVITY, _MAGNITUDE = 0.25, 0.5
# Least magnitude of a term, as a share of the largest magnitude in the layer.
_SMALLEST_SHARE = 1e-3


def term_exponents(coefficients: Tensor, grams: Tensor, *, damping: float = 0.01) -> Tensor:
    """Choose the factors of a layer's terms: sqrt(magnitude) / sensitivity^(1/4), to the next quarter of an octave.

    The magnitude is the root mean square of a term's coefficients. The sensitivity is ``1 / (G^-1)_jj``: the squared
    change of the outputs for a unit change of coefficient j, after the best compensation by all other coefficients.

    Args:
        coefficients: (O, I, nh, nw), floating point, finite; O is a multiple of the number of groups.
        grams: (groups, F, F) with F = I nh nw: see ``quant.gptq.gptq``.
        damping: Share of the mean diagonal that is added to the diagonal.

    Returns:
        Exponents e of the factors 2^(e/4), int8, (nh, nw); their mean is 0, up to rounding.

    Raises:
        NumericalError: A Gram matrix is not positive semi-definite.
    """
    terms = coefficients.shape[2] * coefficients.shape[3]
    root = inverse_root(grams.to(torch.float64), damping)
    sensitivity = root.square().sum(1).reciprocal().log2().unflatten(1, (-1, terms)).mean((0, 1))
    magnitude = coefficients.to(torch.float64).square().mean((0, 1)).sqrt().flatten()
    if not bool(magnitude.any()):
        return torch.zeros(coefficients.shape[2:], dtype=torch.int8)
    magnitude = magnitude.clamp_min(_SMALLEST_SHARE * float(magnitude.max())).log2()
    octaves = _MAGNITUDE * magnitude - _SENSITIVITY * sensitivity
    exponents: Tensor = (4 * (octaves - octaves.mean())).round().clamp(-127, 127)
    return exponents.to(torch.int8).cpu().reshape(coefficients.shape[2:])


def gptq_by_terms(coefficients: Tensor, grams: Tensor, format: IntFormat) -> QuantizedTensor:
    """Choose the factors of a series' terms, and round the coefficients divided by them with gptq.

    Args:
        coefficients: (O, I, nh, nw), floating point, finite; O is a multiple of the number of groups.
        grams: (groups, F, F) with F = I nh nw: see ``quant.gptq.gptq``.
        format: The integers' range.

    Raises:
        CompressionError: The shapes do not match.
        NumericalError: A Gram matrix is not positive semi-definite.
    """
    exponents = term_exponents(coefficients, grams)
    factors = term_factors(exponents).to(coefficients.device)
    columns = factors.flatten().repeat(coefficients.shape[1]).to(grams.dtype)
    chosen = gptq((coefficients / factors).flatten(1), grams * columns * columns[:, None], format)
    return QuantizedTensor(chosen.integers.view(coefficients.shape), cast(Tensor, chosen.scale), format, exponents)


class TermScaledFakeQuantizer(FakeQuantizer):
    """Applies another fake quantizer to the coefficients divided by their terms' factors.

    Args:
        quantizer: Integer fake quantizer, created for the divided coefficients.
        exponents: From ``term_exponents``.
        device: Device of the coefficients.
    """

    factors: Tensor

    def __init__(self, quantizer: FakeQuantizer, exponents: Tensor, device: torch.device) -> None:
        super().__init__(torch.Size(quantizer.shape))
        self.quantizer, self.exponents = quantizer, exponents
        self.register_buffer("factors", term_factors(exponents).to(device), persistent=False)

    def fake_quantize(self, weight: Tensor) -> Tensor:
        """See ``FakeQuantizer``."""
        return self.quantizer.fake_quantize(weight / self.factors) * self.factors

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> FixedTensor:
        """See ``FakeQuantizer``.

        Raises:
            CompressionError: The quantizer is of minifloats, which have exponents of their own.
        """
        found = self.quantizer.quantized(check_weight(weight) / self.factors)
        if not isinstance(found, QuantizedTensor):
            raise CompressionError(f"Terms of the scheme {found.format.scheme} have no factors; allowed: int")
        return replace(found, terms=self.exponents)
