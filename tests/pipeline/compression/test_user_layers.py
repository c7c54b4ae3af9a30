"""Layers as users change them: the compressed network is near theirs and loads."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor

from pipeline import compress, load
from pipeline.errors import OptionsError
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class FunctionalCall(Net):
    def forward(self, x):
        tensors = {"weight": 3 * self.fc.weight, "bias": self.fc.bias}
        return torch.func.functional_call(self.fc, tensors, (self.features(x),))


class SwappedMemory(Net):
    def forward(self, x):
        own = self.two.weight.data
        self.two.weight.data = 2 * own
        result = super().forward(x)
        self.two.weight.data = own
        return result


class Property(nn.Conv2d):
    def __init__(self, *arguments, **words):
        super().__init__(*arguments, **words)
        self.raw = nn.Parameter(self._parameters.pop("weight").detach())

    @property
    def weight(self):
        return self.raw - self.raw.mean((1, 2, 3), keepdim=True)


class WeightProperty(Net):
    def __init__(self):
        super().__init__()
        self.two = Property(8, 8, 3, padding=1)


class PrunedByHand(Net):
    def __init__(self):
        super().__init__()
        self.conv.weight = nn.Parameter(self.conv.weight.detach()[:6].clone())
        self.conv.bias = nn.Parameter(self.conv.bias.detach()[:6].clone())
        self.two.weight = nn.Parameter(self.two.weight.detach()[:, :6].clone())


class NewGeometry(Net):
    def __init__(self):
        super().__init__()
        self.conv.padding, self.two.stride, self.two.dilation = 2, 2, [1]


class ReadsSizes(nn.Linear):
    def forward(self, x):
        return functional.linear(x, self.weight / self.in_features**0.5, self.bias)


class ReadsOldSizes(Net):
    """Its classifier was pruned by hand, and its forward reads the size from before."""

    def __init__(self):
        super().__init__()
        self.fc = ReadsSizes(100, 4)
        self.fc.weight = nn.Parameter(self.fc.weight.detach()[:, :8].clone())


class TwoChunks(Net):
    def forward(self, x):
        return torch.cat([super(TwoChunks, self).forward(chunk) for chunk in x.chunk(2)])


class Renormalized(Net):
    """Its weight is limited in every forward, to a norm that it does not exceed."""

    def forward(self, x):
        self.two.weight.data = torch.renorm(self.two.weight.data, 2, 0, 100.0)
        return super().forward(x)


class MakesParameter(Net):
    def forward(self, x):
        return super().forward(x) * nn.Parameter(torch.ones(4))


class BufferWeight(Net):
    def __init__(self):
        super().__init__()
        weight = self.fc._parameters.pop("weight").detach()
        self.fc.register_buffer("weight", weight)


class ReadsWeights(Net):
    """As networks that convert their input to the type of a weight, and add a penalty in training."""

    def forward(self, x):
        if self.training:
            self.penalty = sum(m.weight.square().sum() for m in self.modules() if isinstance(m, nn.Conv2d))
        return super().forward(x.to(self.conv.weight.dtype))


class TrainReturnsNothing(Net):
    def train(self, mode=True):
        super().train(mode)
        self.conv.requires_grad_(False)


class AuxiliaryHead(Net):
    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(8, 4)

    def forward(self, x):
        found = self.features(x)
        return (self.fc(found), self.aux(found)) if self.training else self.fc(found)


class Observed(Net):
    """A layer holds an observer, as of torch.ao."""

    def __init__(self):
        super().__init__()
        self.two.add_module("observer", nn.BatchNorm1d(1))


class EnablesGradients(Net):
    def forward(self, x):
        with torch.enable_grad():
            return super().forward(x)


class CompiledInPlace(Net):
    def __init__(self):
        super().__init__()
        self.two.compile(backend="eager")


class SmallerInTraining(Net):
    """Its maps in training are half as high, and every second pass leaves a stage out."""

    passes = 0

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        self.passes += 1
        x = x[:, :, ::2]
        if self.passes % 2:
            return self.fc(torch.zeros(len(x), self.fc.in_features) + x.mean((1, 2, 3))[:, None])
        return super().forward(x)


class StackedModels(nn.Module):
    """Its two first parts run at once, with their weights stacked."""

    def __init__(self):
        super().__init__()
        self.parts, self.net = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)), Net()

    def forward(self, x):
        stacked = torch.func.stack_module_state(list(self.parts))

        def run(parameters, buffers):
            return torch.func.functional_call(self.parts[0], (parameters, buffers), (x,))

        return self.net(torch.vmap(run)(*stacked).mean(0))


class LowRank(nn.Conv2d):
    """It adds an update of low rank to its weight."""

    def __init__(self, *arguments, **words):
        super().__init__(*arguments, **words)
        self.down = nn.Parameter(torch.randn(4, self.weight[0].numel()) / 10)
        self.up = nn.Parameter(torch.randn(self.out_channels, 4) / 10)

    def forward(self, x):
        return self._conv_forward(x, self.weight + (self.up @ self.down).view_as(self.weight), self.bias)


class Adapted(Net):
    def __init__(self):
        super().__init__()
        self.two = LowRank(self.two.in_channels, self.two.out_channels, 3, padding=1)


class Experts(Net):
    """A gate chooses one of two convolutions for each image."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x):
        gate, chosen = x.mean((1, 2, 3)) > 0, x.clone()
        for number, expert in enumerate(self.experts):
            if (gate == number).any():
                chosen[gate == number] = expert(x[gate == number])
        return super().forward(chosen)


class NoImage(Net):
    """A branch that no image takes."""

    def features(self, x):
        first, rare = self.conv(x).relu(), x.mean((1, 2, 3)) > 100
        branch = self.two(first[rare]).sum()
        return self.two(first).relu().mean((2, 3)) + branch


def extractor():
    return create_feature_extractor(Net(), {"fc": "logits"})


ACCEPTED = [
    (Observed, ["two"]),
    (EnablesGradients, []),
    (CompiledInPlace, []),
    (extractor, []),
    (FunctionalCall, ["fc"]),
    (SwappedMemory, ["two"]),
    (WeightProperty, ["two"]),
    (PrunedByHand, []),
    (NewGeometry, []),
    (ReadsWeights, []),
    (TrainReturnsNothing, []),
    (AuxiliaryHead, []),
    (ReadsOldSizes, ["fc"]),
    (TwoChunks, []),
    (Renormalized, []),
    (MakesParameter, []),
    (BufferWeight, ["fc"]),
    (StackedModels, ["parts.0"]),
    (Adapted, ["two"]),
    (Experts, ["experts.0", "experts.1"]),
    (NoImage, ["two"]),
]
COMPRESSED = (
    *(PrunedByHand, NewGeometry, ReadsWeights, TwoChunks, Renormalized, MakesParameter),
    *(EnablesGradients, CompiledInPlace, extractor),
)


def logits(network):
    network.eval()  # which returns None for one of them
    with torch.no_grad():
        found = network(IMAGES)
        return found["logits"] if isinstance(found, dict) else found


@pytest.mark.parametrize(("make", "kept"), ACCEPTED, ids=[make.__name__ for make, _ in ACCEPTED])
def test_full_order_at_8_bits_is_the_network_and_reloads(tmp_path, make, kept):
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = compress(network, IMAGES, config=3, bits=8)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    wanted, found = logits(network), logits(result.network)
    assert float((found - wanted).norm() / wanted.norm()) < 0.01
    assert torch.equal(logits(load(result.save(tmp_path / "net.safetensors"), network=make)), found)
    unfitted = [layer.name for layer in result.layers if layer.status == "kept" and layer.rounding_error is None]
    assert [name for name in kept if name not in unfitted] == []
    assert make not in COMPRESSED or "kept" not in [layer.status for layer in result.layers if layer.kernel]
    assert make is not BufferWeight or result.size < 1800, "its weight is rounded"


@pytest.mark.parametrize("make", [ReadsWeights, TrainReturnsNothing, AuxiliaryHead, SmallerInTraining])
@pytest.mark.parametrize("how", [{"config": 2}, {"target_mb": 0.0011}], ids=["epochs", "target"])
def test_they_are_trained(make, how):
    result = compress(make(), IMAGES, **how, epochs=1, batch_size=16)
    assert torch.isfinite(logits(result.network)).all()


def test_layers_with_another_weight_while_they_run_keep_their_own_at_a_target():
    network = FunctionalCall()
    found = logits(compress(network, IMAGES, target_mb=0.0014).network)
    assert float((found - logits(network)).norm() / logits(network).norm()) < 0.05


def test_they_are_not_trained_through_the_rounding():
    assert compress(FunctionalCall(), IMAGES, config=2, epochs=1, batch_size=16).layers
    with pytest.raises(OptionsError, match=r"'fc'.*through the rounding"):
        compress(FunctionalCall(), IMAGES, target_mb=0.0014, epochs=1)


def test_the_further_parameters_of_a_layer_are_rounded_and_listed():
    network = Adapted()
    result = compress(network, IMAGES, config=2, bits=4)
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons["two.down"] == f"LowRank, {network.two.down.numel()} values rounded to nearest"
    assert max(len(row.unique()) for row in result.network.two.down.detach()) <= 16
