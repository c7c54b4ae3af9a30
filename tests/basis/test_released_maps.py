"""Memory after a pass over the calibration images."""

import gc
import weakref

import pytest
import torch
from torch import nn

from basis.activations import fit_activations
from basis.original_outputs import original_outputs
from basis.sampling import DEFAULT_SAMPLING
from basis.shard import CalibrationShard
from basis.swap import swap_convolutions


class Block(nn.Module):
    """A network with a shortcut; it notes the maps of its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.maps: list[weakref.ref[torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.first(x)
        output = self.second(shortcut)
        self.maps += map(weakref.ref, (shortcut, output))
        return (self.norm(output) + shortcut).mean((2, 3))


@pytest.fixture(autouse=True)
def _without_collector():
    gc.disable()
    yield
    gc.enable()


def test_the_maps_of_the_original_are_released_without_the_garbage_collector():
    network, images = Block().eval(), torch.randn(4, 3, 8, 8)
    shard = CalibrationShard.whole(len(images))
    with torch.no_grad():
        found = original_outputs(network, {"first": 0, "second": 1}, images, shard, DEFAULT_SAMPLING, additions=True)
    assert found.shortcuts.keys() == {"second"}
    assert network.maps
    assert not any(each() is not None for each in network.maps)


def test_the_maps_of_a_fitted_network_are_released_without_the_garbage_collector():
    network = Block().eval()
    model = swap_convolutions(network, {"first": (2, 2), "second": (2, 2)}, "cosine")
    model.maps = []
    fit_activations(model, network, torch.randn(4, 3, 8, 8))
    assert model.maps
    assert not any(each() is not None for each in model.maps)
