"""Where the values of a network start that is trained through the rounding."""

import pytest
import torch

from quant.grid import MAX_EXPONENT
from quant.rate import nearest_to_steps
from quant.stepped_training import SteppedFakeQuantizer


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_values_start_near_the_uncompressed_ones_at_the_largest_step(scale):
    values = scale * torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    start = nearest_to_steps(values, torch.full((3, 3), MAX_EXPONENT).to(torch.int16))
    quantizer = SteppedFakeQuantizer(start, values)
    torch.testing.assert_close(quantizer.fake_quantize(quantizer.logits(values)), values / 2, rtol=1e-3, atol=1e-6)
