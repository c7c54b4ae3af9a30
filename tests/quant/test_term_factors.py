"""Factors of terms: the same values in both backends, trained through, and a smaller error in any basis' units."""

import numpy as np
import pytest
import torch
from torch import nn

from basis.errors import CompressionError
from quant.backends import BACKENDS, get_backend
from quant.formats import IntFormat, QuantizedTensor, term_factors
from quant.gptq import gptq
from quant.grid import nearest_on_grid
from quant.minifloat import MinifloatFormat
from quant.term_factors import TermScaledFakeQuantizer, gptq_by_terms, term_exponents

EXPONENTS = torch.tensor([[3, 0, -5], [-127, 127, 8]], dtype=torch.int8)
SIZES = torch.tensor([3.0, 1.2, 1.2, 0.3])


def problem(seed=0, outputs=8, channels=6):
    """Coefficients and the Gram matrix of a series of 2x2 terms whose inputs are unequally large and correlated."""
    generator = torch.Generator().manual_seed(seed)
    sizes = SIZES.repeat(channels)
    mixed = torch.randn(500, 4 * channels, generator=generator) @ torch.randn(
        4 * channels, 4 * channels, generator=generator
    )
    inputs = torch.relu(mixed).double() * sizes
    coefficients = torch.randn(outputs, channels, 2, 2, generator=generator) / SIZES.sqrt().view(2, 2)
    return coefficients, (inputs.T @ inputs)[None]


def error(coefficients, grams, quantized):
    """The squared change of the outputs."""
    change = (coefficients - quantized.dequantize()).flatten(1).double()
    return float(((change @ grams[0]) * change).sum())


def test_the_factors_are_quarter_octaves():
    expected = 2.0 ** (EXPONENTS.numpy().astype(np.float64) / 4)
    np.testing.assert_allclose(term_factors(EXPONENTS).numpy(), expected, rtol=1e-7)
    assert term_factors(EXPONENTS).dtype == torch.float32


def test_a_value_is_integer_times_scale_times_factor():
    integers = torch.randint(-7, 8, (4, 5, 2, 3), dtype=torch.int8)
    scale = nearest_on_grid(torch.rand(4) + 0.1)
    values = QuantizedTensor(integers, scale, IntFormat(4), EXPONENTS).dequantize()
    expected = integers.numpy() * scale.numpy()[:, None, None, None] * term_factors(EXPONENTS).numpy()
    np.testing.assert_array_equal(values.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "terms"),
    [((4, 2), EXPONENTS), ((4, 5, 3, 2), EXPONENTS), ((4, 5, 2, 3), EXPONENTS.float())],
)
def test_exponents_that_are_not_one_for_each_term_are_refused(shape, terms):
    with pytest.raises(CompressionError, match=r"exponents .*allowed.* int8, \(nh, nw\)"):
        QuantizedTensor(torch.zeros(shape, dtype=torch.int8), torch.ones(4), IntFormat(4), terms)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_fake_quantizer_gives_what_is_stored_and_lets_gradients_through(name):
    backend, (coefficients, grams) = get_backend(name), problem()
    start = gptq_by_terms(coefficients, grams, IntFormat(4))
    exponents = term_exponents(coefficients, grams)
    assert torch.equal(start.terms, exponents)
    weight = nn.Parameter(start.dequantize())
    inner = backend.fake_quantizer(weight / term_factors(exponents), IntFormat(4), start.scale)
    quantizer = TermScaledFakeQuantizer(inner, exponents, weight.device)
    output = quantizer(weight)
    assert torch.equal(output, start.dequantize())
    found = quantizer.quantized(weight)
    assert torch.equal(found.integers, start.integers)
    assert torch.equal(found.terms, exponents)
    output.sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones_like(weight))
    assert sum(parameter.grad is not None for parameter in quantizer.parameters()) == 1


def test_minifloats_have_no_factors():
    weight = torch.randn(3, 2, 2, 2)
    inner = get_backend("brevitas").fake_quantizer(weight, MinifloatFormat(4))
    with pytest.raises(CompressionError, match="scheme minifloat have no factors"):
        TermScaledFakeQuantizer(inner, torch.zeros(2, 2, dtype=torch.int8), weight.device).quantized(weight)


@pytest.mark.parametrize("bits", [3, 4])
def test_the_chosen_factors_lower_the_error(bits):
    ratios = []
    for seed in range(5):
        coefficients, grams = problem(seed)
        plain = gptq(coefficients.flatten(1), grams, IntFormat(bits))
        none = QuantizedTensor(plain.integers.view(coefficients.shape), plain.scale, IntFormat(bits))
        found = gptq_by_terms(coefficients, grams, IntFormat(bits))
        ratios.append(error(coefficients, grams, found) / error(coefficients, grams, none))
    assert max(ratios) < 1
    assert sum(ratios) / 5 < 0.85


def test_the_rounding_does_not_depend_on_how_long_the_basis_functions_are():
    coefficients, grams = problem()
    lengths = torch.tensor([[4.0, 1.0], [0.5, 2.0]])
    columns = lengths.flatten().repeat(coefficients.shape[1]).double()
    found = [
        term_exponents(coefficients, grams, damping=0.0),
        term_exponents(coefficients * lengths, grams / columns / columns[:, None], damping=0.0),
    ]
    shift = (found[1] - found[0]).float() - 4 * lengths.log2()
    assert float((shift - shift.mean()).abs().max()) <= 1  # of a quarter octave, by rounding


def test_terms_without_coefficients_have_bounded_factors():
    coefficients, grams = problem()
    coefficients[..., 1, 1] = 0
    assert int(term_exponents(coefficients, grams).abs().max()) <= 40
    assert not term_exponents(coefficients * 0, grams).any()
