"""The memory of the tensors of a computation."""

import itertools

import pytest
import torch
from torch import nn

from pipeline.runtime.tensor_memory import peak_bytes
from pipeline.stages.activation_memory import activation_bytes, images_in_memory

VALUES = 1000
BYTES = 4 * VALUES


def test_only_tensors_that_exist_at_once_are_counted():
    x = torch.ones(VALUES)

    def chain():
        y = x + 1
        y = y + 1
        return y + 1

    assert peak_bytes(chain) == 2 * BYTES
    assert peak_bytes(lambda: [x + 1, x + 2, x + 3]) == 3 * BYTES


def test_views_and_changes_in_place_take_no_memory():
    x = torch.ones(VALUES)
    assert peak_bytes(lambda: (x + 1).view(10, -1).mul_(2)[1:]) == BYTES
    assert peak_bytes(lambda: x.mul_(1)) == 0


class Chain(nn.Module):
    """Layers whose outputs have 4 times as many channels as the images."""

    def __init__(self, layers=3):
        super().__init__()
        widths = [3, *[12] * layers]
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 1), nn.Tanh()) for a, b in itertools.pairwise(widths))
        )

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def test_a_forward_pass_holds_the_maps_around_a_layer_and_a_training_step_those_that_it_needs():
    maps = 4 * 12 * 16 * 16
    model = Chain().train()
    assert activation_bytes(model, (3, 16, 16), training=False) == pytest.approx(3 * maps, rel=0.1)
    assert activation_bytes(model, (3, 16, 16), training=True) == pytest.approx(4 * maps, rel=0.1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fewer_large_images_fit_into_memory():
    few, many = images_in_memory(Chain(), (3, 512, 512)), images_in_memory(Chain(), (3, 32, 32))
    assert few * 256 == pytest.approx(many, rel=0.1)
