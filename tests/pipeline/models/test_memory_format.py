"""Networks that stay in contiguous memory."""

import pytest
import torch
from torch import nn

from pipeline.runtime.device import placed
from tests.pipeline.models.checks.checking import IMAGES, Base, check

CPU = torch.device("cpu")


class Strided(Base):
    """A branch of RepVGG's stem: a strided 1x1 convolution beside the 3x3 one."""

    def __init__(self, channels=3, kernel=1, stride=2):
        super().__init__()
        self.before = nn.Conv2d(3, channels, 1)
        self.branch = nn.Conv2d(channels, 4, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x):
        return super().forward(x) + self.branch(self.before(x)).mean((2, 3))


class PlainNumber(Strided):
    def __init__(self):
        super().__init__()
        self.branch.stride = 2


@pytest.mark.parametrize("make", [Strided, PlainNumber])
def test_a_strided_1x1_convolution_of_few_channels_is_contiguous(make):
    """In channels_last, PyTorch writes its gradient beyond its memory: RepVGG ended with a segmentation fault."""
    model = placed(check(make), CPU)
    assert all(tensor.is_contiguous() for tensor in model.parameters())
    kept = []
    model.branch.register_forward_hook(lambda layer, inputs, output: kept.extend([inputs[0], output]))
    model(IMAGES.to(memory_format=torch.channels_last))
    assert [tensor.is_contiguous() for tensor in kept] == [True, True]


@pytest.mark.parametrize("changes", [{"channels": 8}, {"kernel": 3}, {"stride": 1}], ids=str)
def test_others_are_in_channels_last(changes):
    model = placed(check(lambda: Strided(**changes)), CPU)
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
