"""``compress`` of networks without a convolution that a series can replace: a target rounds their other layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import compress, load
from pipeline.errors import OptionsError
from tests.pipeline.compression.two_convolutions import IMAGES, Net

TARGET_MB = 0.008


class Patches(nn.Module):
    """A classifier of patches that consists of linear layers, as a vision transformer may."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden, self.head = nn.Linear(3 * 36, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x):
        x = x.unfold(2, 6, 6).unfold(3, 6, 6).flatten(4).permute(0, 2, 3, 1, 4).flatten(3)
        return self.head(self.hidden(self.embed(x).relu()).relu().mean((1, 2)))


class Standardized(nn.Conv2d):
    """A convolution that standardizes its weight in each pass, as in networks without normalization."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, padding=self.padding)


class WithoutNormalization(Net):
    def __init__(self):
        super().__init__()
        self.conv, self.two = Standardized(3, 8, 3, padding=1), Standardized(8, 8, 3, padding=1)
        self.fc = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 4))


@pytest.mark.parametrize("kind", [Patches, WithoutNormalization])
def test_a_target_rounds_the_other_layers(tmp_path, kind):
    found = compress(kind(), IMAGES, target_mb=TARGET_MB)
    assert found.target_met
    assert found.size <= TARGET_MB * 1e6
    assert {layer.status for layer in found.layers} == {"kept"}
    loaded = load(found.save(tmp_path / "a.safetensors"), network=kind)
    with torch.no_grad():
        outputs, original = found.network(IMAGES), kind()(IMAGES)
        assert torch.equal(loaded(IMAGES), outputs)
    assert (outputs - original).norm() < 0.2 * original.norm()


def test_a_network_without_layers_has_a_target_of_one_size():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    with pytest.raises(OptionsError) as refusal:
        compress(network, IMAGES, target_mb=1)
    megabytes = float(str(refusal.value).split()[-2])
    assert compress(network, IMAGES, target_mb=megabytes).size == round(1e6 * megabytes)


def test_orders_for_a_network_without_convolutions_are_refused():
    with pytest.raises(OptionsError, match=r"compresses nothing.*no spatial convolution"):
        compress(Patches(), IMAGES, config="2", bits=4)
