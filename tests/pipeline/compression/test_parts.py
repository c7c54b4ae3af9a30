"""Networks that pass parts of the batch through their layers: they are compressed like networks that do not."""

import pytest
import torch

from pipeline import compress
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class InParts(Net):
    def __init__(self, split):
        super().__init__()
        self.split = split

    def forward(self, x):
        return torch.cat([super(InParts, self).forward(part) for part in self.split(x)])


SPLITS = {
    "split": lambda x: x.split(8),
    "chunk": lambda x: x.chunk(4),
    "tensor_split": lambda x: x.tensor_split(3),
    "images": lambda x: x.split(1),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("size", [{"bits": 4, "config": "2,2"}, {"target_mb": 0.0013}])
def test_layers_are_fitted_and_rounded_as_in_the_whole_batch(split, size, caplog):
    result, wanted = compress(InParts(split), IMAGES, **size), compress(Net(), IMAGES, **size)
    assert not caplog.text
    for layer, other in zip(result.layers, wanted.layers, strict=True):
        assert (layer.status, layer.order) == (other.status, other.order)
        assert layer.fit_error == other.fit_error or layer.fit_error == pytest.approx(other.fit_error, rel=1e-3)
        assert layer.rounding_error == pytest.approx(other.rounding_error, rel=0.3)


def test_it_is_trained():
    network = InParts(SPLITS["images"])
    result = compress(network, IMAGES, config="2,2", bits=4, epochs=1)
    assert all(layer.rounding_error is not None for layer in result.layers)
