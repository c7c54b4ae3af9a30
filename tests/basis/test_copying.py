import torch
from torch import nn

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
