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
