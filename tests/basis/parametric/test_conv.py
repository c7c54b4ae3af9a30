"""Convolutions of a parametric family, and how they take the place of others."""

import copy

import pytest
import torch
from torch import nn

from basis.activations import fit_activations, output_errors
from basis.errors import CompressionError, NumericalError
from basis.layers import hessian_layers, is_regular, stored_layers
from basis.parametric.conv import ParametricConv2d, swap_parametric
from basis.parametric.families import FAMILIES
from basis.parametric.fitting import fit_parameters
from basis.swap import materialize
from tests.support.networks import tiny_network

SPATIAL = ["0.0", "1.0", "2.0"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_the_convolution_with_its_kernels(family):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2, padding_mode="reflect")
    ours, x = ParametricConv2d(conv, family), torch.randn(2, 4, 9, 9)
    dense = ours.materialize()
    assert type(dense) is nn.Conv2d
    assert ours.coefficients.shape == (6, 2, 1, FAMILIES[family].values)
    torch.testing.assert_close(ours(x), dense(x))
    torch.testing.assert_close(dense.bias, conv.bias)
    assert f"basis={family}" in repr(ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_differences(family):
    torch.manual_seed(0)
    conv = ParametricConv2d(nn.Conv2d(2, 3, 3), family).double()
    conv.coefficients.data[..., 1:] *= 0.9  # inside the ranges
    x, change = torch.randn(1, 2, 6, 6, dtype=torch.float64), torch.randn(conv.coefficients.shape, dtype=torch.float64)
    conv(x).square().sum().backward()
    slope = float((conv.coefficients.grad * change).sum())
    losses, step = [], 1e-6
    for sign in (1, -1):
        moved = copy.deepcopy(conv)
        moved.coefficients.data += sign * step * change
        losses.append(moved(x).square().sum().item())
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5)


def test_every_spatial_convolution_is_replaced_and_materialized_again():
    model = swap_parametric(tiny_network(), SPATIAL, "fracsrf")
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {"0.0": ParametricConv2d, "1.0": ParametricConv2d, "1.2": nn.Conv2d, "2.0": ParametricConv2d}
    x = torch.randn(2, 3, 12, 12)
    expected = model(x)
    assert not any(isinstance(module, ParametricConv2d) for module in materialize(model).modules())
    torch.testing.assert_close(model(x), expected)


def test_a_frozen_kernel_has_frozen_parameters_and_shapes_suffice_on_the_meta_device():
    conv = nn.Conv2d(2, 2, 3).requires_grad_(False)
    assert not ParametricConv2d(conv, "fracsrf").coefficients.requires_grad
    abstract = ParametricConv2d(nn.Conv2d(2, 4, 3, device="meta"), "fractional")
    assert abstract(torch.empty(1, 2, 5, 5, device="meta")).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no layer is named; allowed: names of convolutions"),
        (["nowhere"], r"the network has no layer 'nowhere'"),
        (["1.2"], r"layer '1.2' is a Conv2d; allowed: nn.Conv2d with a kernel larger than 1"),
    ],
)
def test_layers_that_cannot_be_replaced(names, message):
    model = tiny_network()
    with pytest.raises(CompressionError, match=message):
        swap_parametric(model, names, "fracsrf")
    assert not any(isinstance(module, ParametricConv2d) for module in model.modules())


def test_a_weight_that_is_not_finite_is_named_and_nothing_is_replaced():
    model = tiny_network()
    with torch.no_grad():
        model[1][0].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"layer '1\.0'.*finite"):
        swap_parametric(model, SPATIAL, "fracsrf")
    assert not any(isinstance(module, ParametricConv2d) for module in model.modules())


def test_it_has_no_hessian_and_its_errors_are_measured_with_the_kernels():
    original, images = tiny_network(), torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    model = swap_parametric(copy.deepcopy(original), SPATIAL, "fracsrf")
    assert list(stored_layers(model)) == ["0.0", "1.0", "1.2", "2.0", "5"]
    assert list(hessian_layers(model, 10_000)) == ["1.2", "5"]
    assert not is_regular(model[0][0])
    before = copy.deepcopy(model.state_dict())
    errors = output_errors(model, original, images)
    assert errors.keys() == set(SPATIAL)
    with torch.no_grad():
        wanted = original[0][0](images)
        found = original[0][0]._conv_forward(images, model[0][0].filters(), None)
    assert errors["0.0"] == pytest.approx(float((found - wanted).norm() / wanted.norm()), rel=1e-3)
    assert fit_activations(model, original, images) == {}  # it is a linear fit
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_stored_values_are_those_of_the_fit():
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    ours = ParametricConv2d(conv, "fracsrf")
    torch.testing.assert_close(ours.coefficients.data, fit_parameters(conv.weight, "fracsrf"))
    torch.testing.assert_close(ours.filters(), ours.materialize().weight)
