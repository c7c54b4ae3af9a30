"""Error-compensating rounding: never worse than nearest, near the optimum, and usable by both backends."""

import itertools

import pytest
import torch
from torch import Tensor

from basis.errors import CompressionError, NumericalError
from quant.backends import BACKENDS, get_backend
from quant.formats import IntFormat, QuantizedTensor
from quant.gptq import gptq, weighted_error
from quant.grid import nearest_on_grid
from quant.minifloat import MinifloatFormat
from quant.schemes import Format, StoredTensor

WIDTHS = range(2, 9)


def _problem(rows: int, inputs: int, samples: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random weight of one group and the Gram matrix of correlated, one-sided inputs such as a ReLU gives."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(samples, inputs, generator=generator) @ torch.randn(inputs, inputs, generator=generator)
    inputs_seen = torch.relu(mixed).double()
    return torch.randn(rows, inputs, generator=generator), (inputs_seen.t() @ inputs_seen)[None]


def _nearest(weight: Tensor, format: Format) -> StoredTensor:
    return get_backend("brevitas").quantize(weight, format)


@pytest.mark.parametrize("scheme", [IntFormat, MinifloatFormat])
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("samples", [400, 10, 0])
def test_no_row_is_worse_than_nearest(scheme: type[Format], bits: int, samples: int) -> None:
    weight, gram = _problem(16, 70, samples)
    ours = weighted_error(weight, gram, gptq(weight, gram, scheme(bits)))
    nearest = weighted_error(weight, gram, _nearest(weight, scheme(bits)))
    assert (ours <= nearest).all()
    if samples == 400:
        assert ours.sum() < 0.75 * nearest.sum()


@pytest.mark.parametrize("bits", WIDTHS)
def test_representable_weights_are_exact(bits: int) -> None:
    format = IntFormat(bits)
    integers = torch.randint(format.qmin, format.qmax + 1, (6, 12), dtype=torch.int8)
    integers[:, 0] = format.qmax
    weight = QuantizedTensor(integers, nearest_on_grid(torch.rand(6) + 0.1), format).dequantize()
    result = gptq(weight, _problem(1, 12)[1], format)
    assert torch.equal(result.integers, integers)
    torch.testing.assert_close(result.dequantize(), weight, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bits", WIDTHS)
def test_representable_minifloats_are_exact(bits: int) -> None:
    weight = _nearest(_problem(6, 12)[0], MinifloatFormat(bits)).dequantize()
    assert torch.equal(gptq(weight, _problem(1, 12)[1], MinifloatFormat(bits)).dequantize(), weight)


@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
def test_close_to_the_best_of_all_ternary_rows(inputs: int) -> None:
    weight, gram = _problem(40, inputs)
    codes = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=inputs)), dtype=torch.float64)
    weighted = codes @ gram[0]
    projection = weight.double() @ weighted.t()
    power = (weighted * codes).sum(1)
    total = ((weight.double() @ gram[0]) * weight.double()).sum(1)
    exponent = 16 * (projection / power.clamp_min(1e-9)).clamp_min(1e-9).log2()
    scales = [2 ** (rounded / 16) for rounded in (exponent.floor(), exponent.ceil())]
    saved = torch.stack([2 * scale * projection - scale**2 * power for scale in scales]).amax(0).clamp_min(0).amax(1)
    ours = weighted_error(weight, gram, gptq(weight, gram, IntFormat(2), damping=0.0))
    assert (ours >= (total - saved) * (1 - 1e-5) - 1e-5 * total).all()
    assert ours.sum() <= 1.35 * (total - saved).sum() + 1e-5 * total.sum()


@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize("bits", WIDTHS)
def test_both_backends_keep_the_integers(name: str, bits: int) -> None:
    weight, gram = _problem(8, 20)
    result = gptq(weight, gram, IntFormat(bits))
    again = get_backend(name).quantize(result.dequantize(), IntFormat(bits), result.scale)
    assert torch.equal(again.integers, result.integers)
    assert torch.equal(again.scale, result.scale)


@pytest.mark.parametrize("format", [IntFormat(4), MinifloatFormat(4)])
def test_groups_are_rounded_with_their_own_gram_matrix(format: Format) -> None:
    weight = _problem(6, 9)[0]
    grams = torch.cat([_problem(1, 9, seed=seed)[1] for seed in range(3)])
    result = gptq(weight, grams, format)
    for k, gram in enumerate(grams):
        part = gptq(weight[2 * k : 2 * k + 2], gram[None], format)
        assert torch.equal(result.integers[2 * k : 2 * k + 2], part.integers)
        assert torch.equal(result.dequantize()[2 * k : 2 * k + 2], part.dequantize())


def test_singular_and_dead_inputs_without_damping() -> None:
    weight, gram = _problem(8, 12, samples=5)
    gram[:, 3], gram[:, :, 3] = 0, 0
    weight[0] = 0
    result = gptq(weight, gram, IntFormat(4), damping=0.0)
    assert not result.integers[0].any()
    assert (weighted_error(weight, gram, result) <= weighted_error(weight, gram, _nearest(weight, IntFormat(4)))).all()


def test_a_singular_group_leaves_the_others_as_they_are() -> None:
    weight = _problem(4, 9)[0]
    good, singular = _problem(1, 9)[1], _problem(1, 9, samples=2)[1]
    alone = gptq(weight[:2], good, IntFormat(4), damping=0.0)
    both = gptq(weight, torch.cat([good, singular]), IntFormat(4), damping=0.0)
    assert torch.equal(both.dequantize()[:2], alone.dequantize())


def test_a_depthwise_layer_of_many_groups_is_one_problem() -> None:
    weight = _problem(500, 9)[0]
    grams = _problem(1, 9)[1].expand(500, 9, 9)
    together = gptq(weight, grams[:1], IntFormat(3))
    assert torch.equal(gptq(weight, grams, IntFormat(3)).integers, together.integers)


def test_unusable_input_is_refused() -> None:
    weight, gram = _problem(4, 6)
    with pytest.raises(CompressionError, match=r"allowed: \(O, F\) and \(groups, F, F\)"):
        gptq(weight, gram[:, :5, :5], IntFormat(4))
    with pytest.raises(NumericalError, match="finite"):
        gptq(weight, gram * torch.nan, IntFormat(4))
    with pytest.raises(CompressionError, match="diagonals of zero or more"):
        gptq(weight, -gram, IntFormat(4))
    with pytest.raises(CompressionError, match="damping of zero or more"):
        gptq(weight, gram, IntFormat(4), damping=-1.0)
    with pytest.raises(NumericalError, match="positive semi-definite"):
        gptq(weight, (torch.ones(6, 6) * 5 - 4 * torch.eye(6))[None], IntFormat(4))
    with pytest.raises(NumericalError, match="NaN or infinite"):
        gptq(weight * torch.inf, gram, IntFormat(4))
    with pytest.raises(CompressionError, match="O a multiple of groups"):
        gptq(weight, gram.expand(3, 6, 6), IntFormat(4))
