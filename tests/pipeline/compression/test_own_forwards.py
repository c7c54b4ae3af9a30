"""``compress`` of layers whose class has a forward of its own: compressed if it computes what torch's forward does."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import compress, load
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class Own(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class OwnForwards(Net):
    """A network without other layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.two = Own(3, 8, 3, padding=1), Own(8, 8, 3, padding=1)
        self.fc = OwnLinear(8, 4)


@pytest.mark.parametrize("options", [{"config": 2, "bits": 4}, {"config": 2}], ids=str)
def test_a_forward_that_computes_the_same_is_compressed_as_one_of_torchs_class(tmp_path, options):
    found, plain = compress(OwnForwards(), IMAGES, **options), Net()
    plain.load_state_dict(OwnForwards().state_dict())
    wanted = compress(plain, IMAGES, **options)
    assert [(each.order, each.status) for each in found.layers] == [(each.order, each.status) for each in wanted.layers]
    assert found.size == pytest.approx(wanted.size, abs=80)  # the name of the class
    loaded = load(found.save(tmp_path / "a.safetensors"), network=OwnForwards)
    with torch.no_grad():
        assert torch.allclose(found.network(IMAGES), wanted.network(IMAGES), atol=1e-6)
        difference = (loaded(IMAGES) - found.network(IMAGES)).abs().max()
    assert difference <= (0.0 if "bits" in options else 1e-6)  # the file of a series holds its filters


class ReadsWeights(Net):
    """It computes with the weights of a linear layer and of a 1x1 convolution, and calls neither."""

    def __init__(self):
        super().__init__()
        self.point = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = functional.conv2d(self.two(self.conv(x).relu()).relu(), self.point.weight, self.point.bias)
        return functional.linear(x.relu().mean((2, 3)), self.fc.weight, self.fc.bias)


@pytest.mark.parametrize("options", [{"config": 2, "bits": 4}, {"target_mb": 0.0012}], ids=str)
def test_the_reason_names_weights_that_are_read_without_a_call(tmp_path, options):
    found = compress(ReadsWeights(), IMAGES, **options)
    reasons = {layer.name: layer.reason for layer in found.layers if layer.status == "kept"}
    assert reasons.keys() == {"point", "fc"}
    assert all("without calling" in reason for reason in reasons.values())
    loaded = load(found.save(tmp_path / "a.safetensors"), network=ReadsWeights)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), found.network(IMAGES))
