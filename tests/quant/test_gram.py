"""Gram matrices against their definition: what they weigh is the change of the layer's outputs."""

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from quant.gram import conv_gram, linear_gram

ONE = nn.Conv2d(6, 4, 1, stride=2)
CONVS = [
    nn.Conv2d(6, 8, 3, padding=1),
    nn.Conv2d(6, 6, (3, 5), stride=2, groups=6, padding="valid"),
    nn.Conv2d(6, 4, 3, padding="same", dilation=2, groups=2, padding_mode="reflect"),
    nn.Conv2d(6, 4, 2, padding=(1, 0), padding_mode="circular"),
    ONE,
]


@pytest.mark.parametrize(
    ("conv", "series"), [(conv, series) for conv in CONVS for series in (False, True) if not series or conv is not ONE]
)
def test_a_gram_weighs_the_mean_square_change_of_the_outputs(conv, series):
    order = tuple(min(2, k) for k in conv.kernel_size)
    layer = SeriesConv2d(conv, "chebyshev", order) if series else conv
    x = torch.randn(5, 6, 9, 10)
    stored = layer.coefficients if series else layer.weight
    gram = conv_gram(layer, x, operator=layer.operator if series else None)
    rows = stored.detach().double().reshape(conv.groups, -1, gram.shape[1])
    predicted = (rows @ gram * rows).sum(2).flatten()
    with torch.no_grad():
        outputs = layer(x) - (0 if layer.bias is None else layer.bias[:, None, None])
    torch.testing.assert_close(predicted.float(), outputs.square().mean((0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_large_maps_are_sampled_alike_for_one_seed(monkeypatch):
    monkeypatch.setattr("basis.patches.POSITIONS", 40)
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(8, 3, 20, 20)
    assert torch.equal(conv_gram(conv, x, seed=1), conv_gram(conv, x, seed=1))
    assert not torch.equal(conv_gram(conv, x, seed=1), conv_gram(conv, x, seed=2))


def test_a_linear_gram_takes_any_leading_axes():
    x = torch.randn(3, 4, 5)
    rows = x.reshape(12, 5).double()
    torch.testing.assert_close(linear_gram(x), (rows.T @ rows / 12)[None], rtol=1e-5, atol=1e-6)
