"""Rounding of whole networks to a number of bits."""

import torch
from torch import nn

from quant.rate_rounding import OriginalPass, measure_layers, round_network


class Attention(nn.Module):
    """Attention reads the weight of its output layer without running the layer; ``spare`` has no effect."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 4, stride=4), nn.MultiheadAttention(16, 2, batch_first=True)
        self.head, self.spare = nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_a_layer_that_does_not_run_keeps_a_weight_that_the_network_reads():
    torch.manual_seed(0)
    network, images = Attention().eval(), torch.randn(32, 3, 16, 16)
    original = OriginalPass.record(network, network, images)
    rounded = round_network(network, original, measure_layers(network, original), 6 * 1000)
    weight, stored = network.attention.out_proj.weight.detach(), rounded.layers["attention.out_proj"]
    assert float((stored.dequantize() - weight).norm() / weight.norm()) < 0.02
    assert torch.equal(rounded.model.attention.out_proj.weight, stored.dequantize())
    assert {"attention.out_proj", "head"} <= rounded.log_steps.keys()
    assert "spare" not in rounded.log_steps
    assert not rounded.layers["spare"].integers.any()
