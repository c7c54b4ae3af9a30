"""A stage that runs in ``torch.vmap`` with a stack of weights: it is trained around, and a target is refused."""

import pytest
import torch
from torch import nn

from pipeline import compress
from pipeline.errors import OptionsError
from tests.pipeline.compression.networks import Net, images, seeded

X = images()


class Stacked(Net):
    """Its last stage runs once with each of two weights."""

    def __init__(self) -> None:
        super().__init__()
        weight = self.last.weight.detach()
        self.weights = nn.Parameter(torch.stack([weight, weight.flip(0)]))
        self.last = nn.Sequential(self.last)  # a bare convolution is no feature of training

    def features(self, x):
        x = self.stem(x).relu()
        x = x + self.block(x)

        def run(weight):
            return torch.func.functional_call(self.last, {"0.weight": weight}, (x,))

        return torch.vmap(run)(self.weights).mean(0)


def test_a_network_is_trained_around_the_stage():
    result = compress(seeded(Stacked), X, config="3,2,2", epochs=1)
    (layer,) = [layer for layer in result.layers if layer.name == "last.0"]
    assert layer.status == "kept"
    assert bool(result.network(X).isfinite().all())


def test_a_target_names_the_other_weight():
    with pytest.raises(OptionsError, match=r"'last.0'.*because its weight is another one.*torch\.vmap.*bits"):
        compress(seeded(Stacked), X, target_mb=0.003)
