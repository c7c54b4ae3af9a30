"""Compare Hessians with their definition: they weigh the change of outputs, and a refit restores the outputs."""

import copy

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from basis.errors import NumericalError
from basis.patches import samples
from quant.hessian import conv_hessian, conv_targets, linear_hessian, linear_targets, refit
from tests.support.lockstep import in_shares

ONE = nn.Conv2d(6, 4, 1, stride=2)
CONVS = [
    nn.Conv2d(6, 8, 3, padding=1),
    nn.Conv2d(6, 6, (3, 5), stride=2, groups=6, padding="valid"),
    nn.Conv2d(6, 4, 3, padding="same", dilation=2, groups=2, padding_mode="reflect"),
    nn.Conv2d(6, 4, 2, padding=(1, 0), padding_mode="circular"),
    ONE,
]
CASES = [(conv, series) for conv in CONVS for series in (False, True) if not series or conv is not ONE]


def layer_of(conv, series):
    return SeriesConv2d(conv, "chebyshev", tuple(min(2, k) for k in conv.kernel_size)) if series else conv


def hessian_of(layer, x, outputs):
    chosen = samples(layer, x)
    operator = layer.operator if isinstance(layer, SeriesConv2d) else None
    return conv_hessian(layer, x, chosen, conv_targets(layer, chosen, outputs), operator)


def stored_of(layer):
    return (layer.coefficients if isinstance(layer, SeriesConv2d) else layer.weight).detach().flatten(1)


@torch.no_grad()
@pytest.mark.parametrize(("conv", "series"), CASES)
def test_a_gram_weighs_the_mean_square_of_the_outputs(conv, series):
    layer, x = layer_of(conv, series), torch.randn(5, 6, 9, 10)
    outputs = layer(x)
    hessian = hessian_of(layer, x, outputs)
    rows = stored_of(layer).double().unflatten(0, (conv.groups, -1))
    plain = outputs - (0 if layer.bias is None else layer.bias[:, None, None])
    expected = plain.square().mean((0, 2, 3))
    torch.testing.assert_close((rows @ hessian.gram * rows).sum(2).flatten().float(), expected, rtol=1e-3, atol=1e-5)
    across = (rows.mT * hessian.cross).sum(1).flatten().float()
    torch.testing.assert_close(across, expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("conv", "series"), CASES)
def test_a_refit_finds_the_values_that_gave_the_outputs(conv, series):
    layer, x = layer_of(conv, series), torch.randn(40, 6, 9, 10)
    hessian = hessian_of(layer, x, layer(x))
    disturbed = stored_of(layer) + 0.1 * torch.randn_like(stored_of(layer))
    torch.testing.assert_close(refit(hessian, disturbed), stored_of(layer), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(refit(hessian, stored_of(layer)), stored_of(layer), rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_finite_are_a_numerical_error():
    layer = copy.deepcopy(CONVS[0])
    x = torch.full((2, 6, 9, 10), torch.inf)
    hessian = hessian_of(layer, x, torch.zeros(2, 8, 9, 10))
    with pytest.raises(NumericalError, match="finite"):
        refit(hessian, stored_of(layer))
    with pytest.raises(NumericalError, match=r"'conv1'.*finite"):
        hessian.check_finite("conv1")


@torch.no_grad()
def test_a_linear_layer_takes_any_leading_axes():
    layer, x = nn.Linear(5, 3), torch.randn(16, 7, 5)
    hessian = linear_hessian(x, linear_targets(layer, layer(x)))
    rows = x.reshape(112, 5).double()
    torch.testing.assert_close(hessian.gram, (rows.T @ rows / 112)[None], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(refit(hessian, layer.weight + 1), layer.weight, rtol=1e-2, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(("conv", "series"), CASES)
def test_shards_of_the_images_have_the_means_of_all(conv, series):
    layer, x = layer_of(conv, series), torch.randn(7, 6, 9, 10)
    expected, operator = hessian_of(layer, x, layer(x)), layer.operator if series else None

    def work(mine, shard):
        chosen = samples(layer, mine, shard=shard)
        return conv_hessian(layer, mine, chosen, conv_targets(layer, chosen, layer(mine)), operator, shard)

    for found in in_shares(3, x, work):
        torch.testing.assert_close(found.gram, expected.gram, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.cross, expected.cross, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_shards_of_a_linear_layers_rows_have_the_means_of_all():
    layer, x = nn.Linear(5, 3), torch.randn(7, 4, 5)
    expected = linear_hessian(x, linear_targets(layer, layer(x)))

    def work(mine, shard):
        return linear_hessian(mine, linear_targets(layer, layer(mine)), shard)

    for found in in_shares(2, x, work):
        torch.testing.assert_close(found.gram, expected.gram, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.cross, expected.cross, rtol=1e-5, atol=1e-6)
