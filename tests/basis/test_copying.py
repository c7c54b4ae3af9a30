import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from basis.copying import copy_network

IMAGES = torch.ones(2, 3, 5, 5)


def test_hooks_of_traced_parts_are_copied():
    torch.manual_seed(0)
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 2, 3)))
    traced.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    traced.register_forward_hook(lambda module, inputs, output: output * 2)
    network = nn.Sequential(traced, nn.ReLU())
    again = copy_network(copy_network(network))
    assert torch.equal(again(IMAGES), network(IMAGES))
    with torch.no_grad():
        next(again.parameters()).zero_()
    assert not torch.equal(again(IMAGES), network(IMAGES))


def test_hooks_with_keywords_of_traced_parts_are_copied():
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 2, 3)))
    traced.register_forward_pre_hook(lambda module, inputs, keywords: ((inputs[0] + 1,), keywords), with_kwargs=True)
    assert torch.equal(copy_network(traced)(IMAGES), traced(IMAGES))


def test_copies_of_feature_extractors_are_in_the_same_mode():
    """They have a graph for each mode, and copy.deepcopy gives them the one of training."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    extractor = create_feature_extractor(network, {"2": "logits"}).eval()
    again = copy_network(copy_network(extractor))
    assert not any(module.training for module in again.modules())
    assert torch.equal(again(IMAGES)["logits"], network(IMAGES))
    network[1].eval()
    assert [module.training for module in copy_network(network.train()).modules()] == [True] * 4
    frozen = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    assert [module.training for module in copy_network(frozen).modules()] == [True, True, False]


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        self.kept = {"maps": [self.conv(x)]}
        return self.kept["maps"][0]


def test_a_network_that_keeps_its_maps_is_copied():
    network = Keeping()
    expected = network(IMAGES)
    again = copy_network(network)
    assert torch.equal(again.kept["maps"][0], expected)
    assert torch.equal(again(IMAGES), expected)
