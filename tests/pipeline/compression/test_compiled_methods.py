"""Networks with methods that torch.compile compiled: their layers are compressed, and the caller's network is kept."""

import copy

import pytest
import torch

from pipeline import compress
from pipeline.errors import OptionsError
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class Decorated(Net):
    @torch.compile(backend="eager")
    def features(self, x):
        return super().features(x)


class Inherited(Decorated):
    @torch.compile(backend="eager")
    def forward(self, x):
        return super().forward(x)


class InAttribute(Net):
    def __init__(self):
        super().__init__()
        self.forward = torch.compile(self.forward, backend="eager")


class UnderAnotherName(Net):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(self.features, backend="eager")

    def forward(self, x):
        return self.fc(self.fast(x))


@torch.compile(backend="eager")
def features(network, x):
    return network.two(network.conv(x).relu()).relu().mean((2, 3))


class InFunction(Net):
    def features(self, x):
        return features(self, x)


@pytest.mark.parametrize("kind", [Decorated, Inherited, InAttribute, UnderAnotherName])
def test_layers_in_compiled_methods_are_compressed(kind):
    network = kind()
    before = dict(vars(network))
    result = compress(network, IMAGES, config="2,2", bits=4)
    assert vars(network) == before
    assert [layer.status for layer in result.layers] == ["compressed", "compressed", "kept"]
    assert all(layer.rounding_error is not None for layer in result.layers)
    wanted = compress(Net(), IMAGES, config="2,2", bits=4).network(IMAGES)
    assert torch.equal(result.network(IMAGES), wanted)
    assert torch.equal(copy.deepcopy(result.network)(IMAGES), wanted)


def test_the_reason_names_functions_that_are_compiled():
    with pytest.raises(OptionsError, match="a function that is compiled"):
        compress(InFunction(), IMAGES, config="2,2", bits=4)
