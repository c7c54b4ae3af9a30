"""Brevitas' float quantizer as the poster's number format, for rounding and for training."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.errors import CompressionError, NumericalError
from quant.backends import get_backend
from quant.minifloat import MinifloatFormat, decode, encode

SHAPES = [(7,), (5, 1), (6, 9), (4, 3, 3, 3), (8, 1, 5, 5), (1, 1, 1, 1)]
BREVITAS = get_backend("brevitas")


def _weight(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * 10 ** torch.linspace(-6, 2, shape[0]).reshape(
        -1, *[1] * (len(shape) - 1)
    )


@pytest.mark.parametrize("bits", range(2, 9))
def test_brevitas_rounds_as_the_format_says(bits: int) -> None:
    format = MinifloatFormat(bits)
    patterns = torch.arange(-(2 ** (bits + 7)), 2 ** (bits + 7)).to(torch.int16)
    assert torch.equal(BREVITAS.quantize(decode(patterns, format), format).integers, patterns)
    exponents = torch.randint(-90, 80, (100_000,), generator=torch.Generator().manual_seed(bits))
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(bits)) * 2.0**exponents
    ends = torch.tensor([0.0, -0.0, 3e38, -3e38, 1e-45, format.smallest / 2, format.smallest * 1.5])
    values = torch.cat([values, ends])
    assert torch.equal(BREVITAS.quantize(values, format).integers, encode(values, format))


@pytest.mark.parametrize("shape", SHAPES)
def test_fake_quantizer_has_no_parameters_and_gives_the_stored_values(shape: tuple[int, ...]) -> None:
    weight = _weight(shape)
    for bits in (2, 4, 8):
        fake, stored = (make(weight, MinifloatFormat(bits)) for make in (BREVITAS.fake_quantizer, BREVITAS.quantize))
        assert list(fake.parameters()) == []
        assert torch.equal(fake(weight), stored.dequantize())
        assert torch.equal(fake.quantized(weight).integers, stored.integers)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_are_straight_through_but_for_half_a_step(bits: int) -> None:
    weight = _weight((6, 3, 3, 3))
    weight[0] = 0
    weight.requires_grad_()
    towards = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    rounded = BREVITAS.fake_quantizer(weight, MinifloatFormat(bits))(weight)
    (rounded * towards).sum().backward()
    assert weight.grad is not None
    ratio = torch.where(weight == 0, 1.0, rounded / weight).detach()
    torch.testing.assert_close(weight.grad, towards * ratio, rtol=1e-5, atol=0)
    assert (ratio - 1).abs().max() <= 2.0 ** -(bits + 1)


def test_trains_as_a_parametrization_under_autocast() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    fake = BREVITAS.fake_quantizer(layer.weight, MinifloatFormat(2))
    parametrize.register_parametrization(layer, "weight", fake)
    original = layer.parametrizations.weight.original  # type: ignore[union-attr]
    before = original.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = layer(torch.ones(2, 4, 8, 8)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.equal(original, before)
    assert torch.equal(layer.weight, fake.quantized(original).dequantize())  # type: ignore[arg-type]


def test_unusable_input_is_refused() -> None:
    for call in (BREVITAS.quantize, BREVITAS.fake_quantizer):
        with pytest.raises(NumericalError, match="1 NaN or infinite values"):
            call(torch.tensor([[1.0, torch.inf]]), MinifloatFormat(4))
        with pytest.raises(CompressionError, match="non-empty tensor"):
            call(torch.zeros(0, 3), MinifloatFormat(4))
        with pytest.raises(CompressionError, match=r"Minifloats.* scale .*\(2,\).*allowed.* none"):
            call(torch.ones(2, 3), MinifloatFormat(4), torch.ones(2))
    fake = BREVITAS.fake_quantizer(torch.ones(2, 3), MinifloatFormat(4))
    with pytest.raises(CompressionError, match=r"allowed: \(2, 3\)"):
        fake(torch.ones(3, 2))
    with pytest.raises(NumericalError, match="6 NaN or infinite values"):
        fake.quantized(torch.full((2, 3), torch.nan))


def test_torch_ao_has_no_minifloats() -> None:
    backend = get_backend("torch.ao")
    for call in (backend.quantize, backend.fake_quantizer):
        with pytest.raises(CompressionError, match=r"torch\.ao.* minifloat.*allowed.* int"):
            call(torch.ones(2, 3), MinifloatFormat(4))
