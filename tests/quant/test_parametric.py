"""Rounding of parameters: factors by kind, ranges, and the whole path from a network to its stored values."""

import pytest
import torch
from torch import nn

from basis.parametric.conv import ParametricConv2d, swap_parametric
from basis.parametric.evaluation import reconstruct
from basis.parametric.families import FAMILIES
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.formats import IntFormat, QuantizedTensor
from quant.minifloat import MinifloatTensor
from quant.network import attach_fake_quantizers, quantize_network
from quant.parametric import quantize_parameters
from quant.schemes import get_format
from tests.support.networks import tiny_network

BACKEND = get_backend("brevitas")


def layer(family: str) -> ParametricConv2d:
    torch.manual_seed(0)
    return ParametricConv2d(nn.Conv2d(16, 24, 3), family)


def kernel_error(conv: ParametricConv2d, values: torch.Tensor) -> float:
    difference = reconstruct(values, conv.basis, (3, 3)) - reconstruct(conv.coefficients, conv.basis, (3, 3))
    return float(difference.norm() / reconstruct(conv.coefficients, conv.basis, (3, 3)).norm())


@pytest.mark.parametrize("backend", ["brevitas", "torch.ao"])
@pytest.mark.parametrize("family", FAMILIES)
def test_factors_by_kind_make_a_smaller_error_of_the_kernels_than_one_scale(family, backend):
    conv = layer(family)
    for bits, share in ((8, 0.6), (4, 0.9)):
        found = quantize_parameters(conv, conv.coefficients.data, IntFormat(bits), get_backend(backend))
        assert isinstance(found, QuantizedTensor)
        assert found.terms is not None
        assert found.terms.shape == (1, FAMILIES[family].values)
        plain = get_backend(backend).quantize(conv.coefficients.data, IntFormat(bits)).dequantize()
        assert kernel_error(conv, found.dequantize()) < share * kernel_error(conv, plain)


def test_the_error_falls_with_the_bits():
    conv = layer("fracsrf")
    errors = [
        kernel_error(conv, quantize_parameters(conv, conv.coefficients.data, IntFormat(bits), BACKEND).dequantize())
        for bits in (3, 4, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03


def test_values_outside_the_ranges_take_no_part_of_the_integers():
    conv, far = layer("fracsrf"), layer("fracsrf")
    conv.coefficients.data[0, 0, 0, 1] = 4.5
    far.coefficients.data[0, 0, 0, 1] = 450
    wanted = quantize_parameters(conv, conv.coefficients.data, IntFormat(4), BACKEND)
    found = quantize_parameters(far, far.coefficients.data, IntFormat(4), BACKEND)
    torch.testing.assert_close(found.dequantize(), wanted.dequantize(), rtol=0, atol=0)


def test_a_layer_of_zeros_and_minifloats():
    conv = layer("fractional")
    assert isinstance(
        quantize_parameters(conv, conv.coefficients, get_format("minifloat", 4), BACKEND), MinifloatTensor
    )
    conv.coefficients.data.zero_()
    zeros = quantize_parameters(conv, conv.coefficients.data, IntFormat(4), BACKEND)
    assert bool((zeros.integers == 0).all())


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_a_network_is_rounded_as_its_layers_are(rounding):
    model = swap_parametric(tiny_network(), ["0.0", "1.0", "2.0"], "fracsrf")
    images = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    found = round_layers(model, images, IntFormat(4), BACKEND, rounding=rounding)
    alone = quantize_network(model, IntFormat(4), BACKEND)
    for name in ("0.0", "1.0", "2.0"):
        torch.testing.assert_close(found.layers[name].integers, alone[name].integers, rtol=0, atol=0)
        assert name not in found.errors  # its outputs are no linear function of the stored values


def test_training_through_the_rounding_starts_from_the_rounded_values():
    model = swap_parametric(tiny_network(), ["0.0", "1.0", "2.0"], "fractional")
    rounded = quantize_network(model, IntFormat(4), BACKEND)
    attach_fake_quantizers(model, IntFormat(4), BACKEND, rounded)
    again = quantize_network(model, IntFormat(4), BACKEND)
    for name, values in rounded.items():
        torch.testing.assert_close(again[name].dequantize(), values.dequantize(), rtol=0, atol=0)
    model(torch.randn(2, 3, 12, 12)).sum().backward()
    master = model[0][0].parametrizations.coefficients.original
    assert bool(torch.isfinite(master.grad).all())
    assert bool(master.grad.any())
