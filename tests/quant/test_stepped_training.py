"""Training through the rounding: its bits fall to those of the target, in short and long trainings."""

import pytest
import torch
from torch import nn

from quant.rate import entropy_bits
from quant.stepped_training import RateControl, attach_stepped_quantizers, stepped_layers


@pytest.mark.parametrize("steps", [55, 391, 2000])
def test_the_bits_fall_to_the_target_in_short_and_long_trainings(steps):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64))
    attach_stepped_quantizers(network, {"0": torch.tensor(-60.0)})
    network[0].parametrizations.weight[0].shift.zero_()
    bits = sum(entropy_bits(tensor) for tensor in stepped_layers(network).values())
    network[0].parametrizations.weight[0].shift.fill_(-21.0)
    control = RateControl(network, bits)
    for step in range(steps):
        control.before_step(step, steps)
    found = sum(entropy_bits(tensor) for tensor in stepped_layers(network).values())
    assert found == pytest.approx(bits, rel=0.05)
