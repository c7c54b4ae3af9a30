"""Training through the rounding leaves terms whose step is far larger than their values at 0."""

import pytest
import torch

from quant.grid import grid_values
from quant.stepped import SteppedTensor
from quant.stepped_training import SteppedFakeQuantizer

HUGE = 150  # a step of 664


@pytest.mark.parametrize(
    "exponents", [torch.tensor([[-64, HUGE], [-30, HUGE]]), torch.tensor(HUGE)], ids=["terms", "all"]
)
def test_values_of_dropped_terms_start_near_zero(exponents):
    exponents = exponents.to(torch.int16)
    values = 0.05 * torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    integers = (values / grid_values(exponents)).round().to(torch.int32)
    quantizer = SteppedFakeQuantizer(SteppedTensor(integers, exponents), values)
    logits = quantizer.logits(values)
    assert logits.isfinite().all()
    start, rounded = quantizer.fake_quantize(logits), integers * grid_values(exponents)
    assert (start - values).norm() < 1.1 * (rounded - values).norm()
    left = (exponents == HUGE).expand_as(values)
    assert (quantizer.rounded(logits, -8.0).integers[left] == 0).all()  # also of a file that is trimmed to grow
