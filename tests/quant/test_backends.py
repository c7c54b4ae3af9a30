"""Both backends against each other and against numpy, for rounding and for training."""

import copy
import importlib
import subprocess
import sys
import types

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.errors import CompressionError, NumericalError
from quant.backends import BACKENDS, Backend, get_backend
from quant.formats import IntFormat
from quant.grid import nearest_on_grid

SHAPES = [(7,), (5, 1), (6, 9), (4, 3, 3, 3), (8, 1, 5, 5), (2, 4, 2, 3), (1, 1, 1, 1)]
both = pytest.mark.parametrize("backend", [get_backend(name) for name in BACKENDS], ids=list(BACKENDS))


def _weight(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(1, generator=generator)
    return torch.randn(shape, generator=generator) * size


def _scale(weight: Tensor, bits: int) -> Tensor:
    share = torch.rand(len(weight), generator=torch.Generator().manual_seed(bits)) + 0.2
    return nearest_on_grid(share * 2.0 ** (1 - bits))


def _absmax_scale(weight: Tensor, qmax: int) -> Tensor:
    """The number 2^(e / 16) just above or just below each channel's absolute maximum / qmax, by the squared error."""
    rows = weight.double().numpy().reshape(len(weight), -1)
    exponents = np.ceil(16 * np.log2(np.abs(rows).max(1) / qmax))
    scales = [(2 ** ((exponents - down) / 16)).astype(np.float32).astype(np.float64) for down in (0, 1)]
    errors = [
        ((np.clip(np.rint(rows / scale[:, None]), -qmax, qmax) * scale[:, None] - rows) ** 2).sum(1) for scale in scales
    ]
    return torch.from_numpy(np.where(errors[1] < errors[0], scales[1], scales[0]).astype(np.float32))


def _reference(weight: Tensor, scale: Tensor, qmax: int) -> npt.NDArray[np.float64]:
    """Exact quotients, before rounding."""
    rows = scale.double().numpy().reshape(-1, *[1] * (weight.ndim - 1))
    quotients: npt.NDArray[np.float64] = np.clip(weight.double().numpy() / rows, -qmax, qmax)
    return quotients


@given(st.sampled_from(SHAPES), st.integers(2, 8), st.integers(0, 10**6), st.booleans())
@settings(max_examples=40)
def test_backends_and_reference_agree(shape: tuple[int, ...], bits: int, seed: int, given_scale: bool) -> None:
    weight, qmax = _weight(shape, seed), IntFormat(bits).qmax
    absmax = _absmax_scale(weight, qmax)
    scale = _scale(weight, bits) if given_scale else None
    results = [get_backend(name).quantize(weight, IntFormat(bits), scale) for name in BACKENDS]
    quotients = _reference(weight, absmax if scale is None else scale, qmax)
    clear = np.abs(np.abs(quotients - np.floor(quotients)) - 0.5) > 1e-4
    for result in results:
        assert torch.equal(result.scale, absmax if scale is None else scale)
        difference = result.integers.numpy() - np.rint(quotients)
        assert np.abs(difference).max() <= 1
        assert not difference[clear].any()


@both
@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_with_their_scales_come_back_unchanged(backend: Backend, bits: int) -> None:
    format = IntFormat(bits)
    integers = torch.randint(format.qmin, format.qmax + 1, (64, 5, 3, 3), dtype=torch.int8)
    scale = nearest_on_grid(torch.rand(64) * 10 ** torch.linspace(-9, 4, 64) + 1e-10)
    result = backend.quantize(integers * scale[:, None, None, None], format, scale)
    assert torch.equal(result.integers, integers)
    assert torch.equal(result.scale, scale)


@both
def test_zero_channel_and_tiny_channel(backend: Backend) -> None:
    weight = torch.randn(3, 4)
    weight[0] = 0
    weight[1] *= 1e-20
    result = backend.quantize(weight, IntFormat(4))
    assert not result.integers[0].any()
    assert result.integers[1].abs().max() == 7
    assert torch.isfinite(result.dequantize()).all()


@both
def test_unusable_input_is_refused(backend: Backend) -> None:
    for call in (backend.quantize, backend.fake_quantizer):
        with pytest.raises(NumericalError, match="1 NaN or infinite values"):
            call(torch.tensor([[1.0, torch.nan]]), IntFormat(4))
        with pytest.raises(CompressionError, match="non-empty tensor"):
            call(torch.zeros(0, 3), IntFormat(4))
        with pytest.raises(CompressionError, match="one value per output channel"):
            call(torch.ones(2, 3), IntFormat(4), torch.ones(3))
        with pytest.raises(CompressionError, match="finite values of at least"):
            call(torch.ones(2, 3), IntFormat(4), torch.zeros(2))


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_fake_quantizer_starts_from_quantize_and_gives_its_integers(backend: Backend, shape: tuple[int, ...]) -> None:
    weight = _weight(shape)
    for bits in (2, 4, 8):
        for scale in (None, _scale(weight, bits)):
            fake = backend.fake_quantizer(weight, IntFormat(bits), scale)
            expected, got = backend.quantize(weight, IntFormat(bits), scale), fake.quantized(weight)
            assert torch.equal(got.integers, expected.integers)
            assert torch.equal(got.scale, expected.scale)
            assert torch.equal(fake(weight), got.dequantize())


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_lsq(backend: Backend, shape: tuple[int, ...]) -> None:
    weight, scale = _weight(shape).requires_grad_(), _scale(_weight(shape), 3)
    fake = backend.fake_quantizer(weight, IntFormat(3), scale)
    sign = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (fake(weight) * sign).sum().backward()
    rows = scale.reshape(-1, *[1] * (len(shape) - 1))
    quotient = weight.detach() / rows
    inside, clear = quotient.abs() <= 3, (quotient.abs() < 3) | (quotient.abs() > 3.5)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[clear], (sign * inside)[clear], rtol=1e-6, atol=0)
    slope = torch.where(inside, quotient.round() - quotient, quotient.sign() * 3) * sign
    factor = (weight[0].numel() * 3) ** -0.5
    got = next(fake.parameters()).grad
    assert got is not None
    assert got.abs().max() > 0
    # Between qmax and qmax + 1/2 torch.ao still counts a value as inside the range.
    row_clear = clear.reshape(len(weight), -1).all(1)
    expected = slope.reshape(len(weight), -1).sum(1) * factor
    torch.testing.assert_close(got.flatten()[row_clear], expected[row_clear], rtol=1e-4, atol=1e-6)


@both
def test_trains_as_a_parametrization_under_autocast(backend: Backend) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    fake = backend.fake_quantizer(layer.weight, IntFormat(4))
    parametrize.register_parametrization(layer, "weight", fake)
    original = layer.parametrizations.weight.original  # type: ignore[union-attr]
    before = fake.scale().detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = layer(torch.ones(2, 4, 8, 8)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert layer.weight.dtype == torch.float32
    assert not torch.equal(fake.scale(), before)
    assert torch.equal(layer.weight, fake.quantized(original).dequantize())  # type: ignore[arg-type]


@both
def test_copies_and_state_dict_carry_the_scale(backend: Backend) -> None:
    weight = _weight((6, 2, 3, 3))
    fake, other = (
        backend.fake_quantizer(weight, IntFormat(4), _scale(weight, 4)),
        backend.fake_quantizer(weight, IntFormat(4)),
    )
    assert len(list(fake.parameters())) == len(fake.state_dict()) == 1
    other.load_state_dict(fake.state_dict())
    for twin in (other, copy.deepcopy(fake)):
        assert torch.equal(twin(weight), fake(weight))
    with torch.no_grad():
        next(fake.parameters()).neg_()
    assert torch.equal(fake(weight), other(weight))
    assert (fake.scale() > 0).all()


@both
def test_fake_quantizer_refuses_another_shape_and_broken_values(backend: Backend) -> None:
    fake = backend.fake_quantizer(torch.ones(2, 3), IntFormat(4))
    with pytest.raises(CompressionError, match=r"allowed: \(2, 3\)"):
        fake(torch.ones(3, 2))
    with pytest.raises(NumericalError, match="6 NaN or infinite values"):
        fake.quantized(torch.full((2, 3), torch.nan))
    with torch.no_grad():
        next(fake.parameters()).fill_(torch.nan)
    with pytest.raises(CompressionError, match="finite values of at least"):
        fake.quantized(torch.ones(2, 3))


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"allowed: brevitas, torch.ao"):
        get_backend("onnx")


def test_importing_quant_does_not_import_brevitas() -> None:
    check = "import sys, quant; sys.exit('brevitas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_torchao_serves_where_torch_has_no_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    observer = importlib.import_module("torch.ao.quantization.observer")
    substitute = types.ModuleType("torchao.quantization.pt2e.observer")
    substitute.PerChannelMinMaxObserver = observer.PerChannelMinMaxObserver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.ao.quantization.observer", None)
    monkeypatch.setitem(sys.modules, substitute.__name__, substitute)
    for name in ("torchao", "torchao.quantization", "torchao.quantization.pt2e"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    assert get_backend("torch.ao").quantize(torch.ones(2, 3), IntFormat(4)).integers.tolist() == [[7] * 3] * 2


@both
def test_learned_scales_stay_on_the_grid_and_collect_small_steps(backend: Backend) -> None:
    weight = _weight((6, 2, 3, 3))
    fake = backend.fake_quantizer(weight, IntFormat(4))
    before, learned = fake.scale().detach().clone(), next(fake.parameters())
    for factor, steps in ((1.01, 0), (1.03, 1)):
        with torch.no_grad():
            learned.mul_(factor)
        assert torch.equal(fake.quantized(weight).scale, nearest_on_grid(before * 2 ** (steps / 16)))
        assert torch.equal(fake(weight), fake.quantized(weight).dequantize())
        (gradient,) = torch.autograd.grad(fake.scale().sum(), learned)
        assert torch.equal(gradient, torch.ones_like(gradient))


@both
def test_a_scale_off_the_grid_is_refused(backend: Backend) -> None:
    for call in (backend.quantize, backend.fake_quantizer):
        with pytest.raises(CompressionError, match="1 values off the grid"):
            call(torch.ones(2, 3), IntFormat(4), torch.tensor([1.0, 1.01]))
