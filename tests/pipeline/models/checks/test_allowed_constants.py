"""Tensors that look like another network's parameters and are none: the check allows them."""

import torch
from torch import nn

from tests.pipeline.models.checks.checking import Base, check, kept


def test_a_buffer_beside_a_parameter_in_one_memory_is_allowed():
    class Flat(Base):
        def __init__(self):
            super().__init__()
            flat = torch.ones(8)
            self.fc.bias.data = flat[:4]
            self.register_buffer("part", flat[4:])

    assert not kept(check(Flat))


class Constant(Base):
    """It computes with a constant of one value, which one of its own parameters has, too."""

    def features(self, x):
        return super().features(x) + ZERO[:, None, None]


ZERO = nn.Parameter(torch.zeros(4), requires_grad=False)


def test_a_constant_with_the_values_of_a_parameter_is_allowed():
    assert not kept(check(Constant))
