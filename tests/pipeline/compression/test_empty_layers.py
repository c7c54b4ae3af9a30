"""``compress`` of networks with a layer without values, such as a classifier of no classes, or of zeros."""

import pytest
import torch
from torch import nn

from pipeline import compress, load
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class NoOutput(Net):
    def __init__(self):
        super().__init__()
        self.empty = nn.Linear(8, 0)

    def forward(self, x):
        features = self.features(x)
        return torch.cat([self.fc(features), self.empty(features)], 1)


class NoInput(Net):
    def __init__(self):
        super().__init__()
        self.empty = nn.Linear(0, 4)

    def forward(self, x):
        return super().forward(x) + self.empty(x.new_zeros(len(x), 0))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("kind", [NoOutput, NoInput])
@pytest.mark.parametrize("options", [{"config": 2, "bits": 4}, {"target_mb": 0.001, "epochs": 1}], ids=str)
def test_a_layer_without_values_is_kept(tmp_path, kind, options):
    network = kind()
    result = compress(network, IMAGES, **options)
    assert [each.status for each in result.layers if each.name == "empty"] == ["kept"]
    loaded = load(result.save(tmp_path / "a.safetensors"), network=kind)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), result.network(IMAGES))
        assert result.network(IMAGES).shape == network(IMAGES).shape


def test_a_network_whose_layer_is_zero_is_trained_through_the_rounding():
    network = Net()
    nn.init.zeros_(network.two.weight)
    nn.init.zeros_(network.two.bias)
    result = compress(network, IMAGES, target_mb=0.0012, epochs=1)
    with torch.no_grad():
        torch.testing.assert_close(result.network(IMAGES), network(IMAGES), rtol=0, atol=0.01)
