"""The series convolution against the convolution that it replaces, for every argument that a convolution has."""

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from basis import BASES, CompressionError, SeriesConv2d, basis_matrix, fit
from basis.errors import NumericalError

PADDING_MODES = ["zeros", "reflect", "replicate", "circular"]


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    """Any convolution that torch accepts on a 14x13 input, with every argument drawn."""
    padding: Any = draw(st.sampled_from(["same", "valid", 0, 1, 2, (1, 0), (0, 2)]))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, (2, 1), (1, 3)]))
    inputs, outputs, groups = draw(st.sampled_from([(4, 6, 1), (4, 6, 2), (4, 4, 4), (4, 8, 4), (1, 3, 1)]))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return nn.Conv2d(
        inputs,
        outputs,
        draw(st.sampled_from([2, 3, 4, 5, (1, 3), (3, 1), (2, 5), (4, 3)])),
        stride=stride,
        padding=padding,
        dilation=draw(st.sampled_from([1, 2, (1, 2)])),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(PADDING_MODES)),
    )


def draw_input(conv: nn.Conv2d) -> torch.Tensor:
    return torch.randn(2, conv.in_channels, 14, 13, generator=torch.Generator().manual_seed(1))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((actual - expected).norm() / expected.norm()).detach())


def numpy_kernel(series: SeriesConv2d) -> torch.Tensor:
    """W = Bh A Bw^T by numpy, in float64."""
    left, right = (
        basis_matrix(series.basis, k, n).numpy() for k, n in zip(series.kernel_size, series.order, strict=True)
    )
    coefficients = series.coefficients.detach().double().numpy()
    return torch.from_numpy(np.einsum("ti,ocij,sj->octs", left, coefficients, right)).float()


@settings(max_examples=40)
@given(conv=convolutions(), basis=st.sampled_from(sorted(BASES)), channels_last=st.booleans())
def test_full_order_equals_the_original(conv: nn.Conv2d, basis: str, channels_last: bool) -> None:
    x = draw_input(conv)
    expected = conv(x)
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    series = SeriesConv2d(conv, basis, conv.kernel_size)
    assert series(x).shape == expected.shape
    assert relative_error(series(x), expected) < 1e-4
    assert relative_error(series.materialize()(x), expected) < 1e-4


@settings(max_examples=30)
@given(conv=convolutions(), basis=st.sampled_from(sorted(BASES)), data=st.data())
def test_lower_order_convolves_with_the_reconstructed_kernel(conv: nn.Conv2d, basis: str, data: st.DataObject) -> None:
    order = (data.draw(st.integers(1, conv.kernel_size[0])), data.draw(st.integers(1, conv.kernel_size[1])))
    series = SeriesConv2d(conv, basis, order)
    assert series.coefficients.shape == (*conv.weight.shape[:2], *order)
    kernel = numpy_kernel(series)
    x = draw_input(conv)
    torch.testing.assert_close(series.filters(), kernel, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(series(x), conv._conv_forward(x, kernel, conv.bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_equals_functional_conv2d(groups: int) -> None:
    conv = nn.Conv2d(8, 16, (5, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=groups)
    series = SeriesConv2d(conv, "chebyshev", (3, 2))
    x = draw_input(conv)
    expected = functional.conv2d(x, numpy_kernel(series), conv.bias, (2, 1), (1, 2), (1, 2), groups)
    torch.testing.assert_close(series(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_definition(basis: str, layout: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 6, (3, 5), padding=1).double().to(memory_format=layout)
    series = SeriesConv2d(conv, basis, (2, 3))
    x = draw_input(conv).double()
    series(x).square().sum().backward()

    coefficients = series.coefficients.detach().clone().requires_grad_()
    bias = conv.bias.detach().clone().requires_grad_()
    left, right = basis_matrix(basis, 3, 2), basis_matrix(basis, 5, 3)
    kernel = torch.einsum("ti,ocij,sj->octs", left, coefficients, right)
    functional.conv2d(x, kernel, bias, padding=1).square().sum().backward()
    torch.testing.assert_close(series.coefficients.grad, coefficients.grad)
    torch.testing.assert_close(series.bias.grad, bias.grad)


def test_training_moves_the_coefficients_towards_the_target() -> None:
    torch.manual_seed(0)
    series = SeriesConv2d(nn.Conv2d(3, 4, 3), "cosine", (2, 2))
    x, target = torch.randn(8, 3, 8, 8), SeriesConv2d(nn.Conv2d(3, 4, 3), "cosine", (2, 2))
    optimizer = torch.optim.SGD(series.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = functional.mse_loss(series(x), target(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_bfloat16_autocast() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    series = SeriesConv2d(conv, "cosine", (3, 3))
    x = draw_input(conv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = series(x)
        assert series.filters().dtype == torch.float32
    assert y.dtype == torch.bfloat16
    assert relative_error(y.float(), conv(x)) < 2e-2
    y.float().sum().backward()
    assert series.coefficients.grad.dtype == torch.float32
    assert series.coefficients.grad.abs().sum() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.filterwarnings("ignore:`torch.jit.script`")
def test_a_scripted_network_computes_the_same(layout: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, groups=2, padding_mode="reflect", padding=1)
    series = SeriesConv2d(conv.to(memory_format=layout), "cosine", (2, 3))
    images = torch.randn(2, 4, 8, 8)
    assert torch.equal(torch.jit.script(nn.Sequential(series))(images), series(images))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_network_traced_by_fx_computes_and_trains_the_same(layout: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, groups=2, padding_mode="reflect", padding=1)
    network = nn.Sequential(SeriesConv2d(conv.to(memory_format=layout), "cosine", (2, 3)), nn.ReLU())
    images = torch.randn(2, 4, 8, 8)
    traced = copy.deepcopy(torch.fx.symbolic_trace(network))
    assert torch.equal(traced(images), network(images))
    for each in (traced, network):
        each(images).sum().backward()
    assert torch.equal(traced.get_parameter("0.coefficients").grad, network[0].coefficients.grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    series = SeriesConv2d(nn.Conv2d(3, 4, 3).to(dtype), "cosine", (2, 2))
    assert series(torch.ones(1, 3, 5, 5, dtype=dtype)).dtype == dtype
    assert series.materialize().weight.dtype == dtype


def test_moves_as_a_module_does() -> None:
    series = SeriesConv2d(nn.Conv2d(3, 4, 3), "cosine", (2, 2)).double()
    assert series(torch.ones(1, 3, 5, 5, dtype=torch.float64)).dtype == torch.float64


def test_meta_convolutions_have_shapes_only() -> None:
    series = SeriesConv2d(nn.Conv2d(3, 4, 3, device="meta"), "cosine", (2, 2))
    assert series.coefficients.is_meta
    assert series.coefficients.shape == (4, 3, 2, 2)
    assert series(torch.empty(1, 3, 5, 5, device="meta")).shape == (1, 4, 3, 3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_is_the_weights(layout: torch.memory_format) -> None:
    series = SeriesConv2d(nn.Conv2d(4, 6, 5).to(memory_format=layout), "cosine", (3, 2))
    assert series.coefficients.is_contiguous(memory_format=layout)
    assert series.filters().is_contiguous(memory_format=layout)
    assert series.materialize().weight.is_contiguous(memory_format=layout)


def test_state_dict_round_trip() -> None:
    series, other = (SeriesConv2d(nn.Conv2d(3, 4, 3), "cosine", (2, 2)) for _ in range(2))
    assert set(series.state_dict()) == {"coefficients", "bias"}
    file = io.BytesIO()
    torch.save(series.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(other(x), series(x))


def test_deepcopy_is_equal_and_independent() -> None:
    series = SeriesConv2d(nn.Conv2d(3, 4, 3), "cosine", (2, 2))
    twin = copy.deepcopy(series)
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(twin(x), series(x))
    with torch.no_grad():
        twin.coefficients.zero_()
    assert series.coefficients.abs().sum() > 0


def test_the_original_is_left_as_it_is() -> None:
    conv = nn.Conv2d(3, 4, 3)
    weight, bias = conv.weight.detach().clone(), conv.bias.detach().clone()
    series = SeriesConv2d(conv, "cosine", (3, 3))
    with torch.no_grad():
        series.coefficients.zero_()
        series.bias.zero_()
    assert torch.equal(conv.weight, weight)
    assert torch.equal(conv.bias, bias)


@settings(max_examples=15)
@given(conv=convolutions(), basis=st.sampled_from(sorted(BASES)))
def test_materialize_gives_an_ordinary_convolution(conv: nn.Conv2d, basis: str) -> None:
    series = SeriesConv2d(conv.eval(), basis, (1, 1))
    dense = series.materialize()
    assert type(dense) is nn.Conv2d
    assert repr(dense) == repr(conv)
    assert set(dense.state_dict()) == set(conv.state_dict())
    assert not dense.training
    x = draw_input(conv)
    torch.testing.assert_close(dense(x), series(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        series.coefficients.zero_()
    assert dense.weight.abs().sum() > 0


def test_frozen_parameters_stay_frozen() -> None:
    conv = nn.Conv2d(3, 4, 3)
    conv.bias.requires_grad_(False)
    series = SeriesConv2d(conv, "cosine", (2, 2))
    assert (series.coefficients.requires_grad, series.bias.requires_grad) == (True, False)
    conv.weight.requires_grad_(False)
    dense = SeriesConv2d(conv, "cosine", (2, 2)).materialize()
    assert (dense.weight.requires_grad, dense.bias.requires_grad) == (False, False)


def test_a_parametrized_weight_stays_trainable_under_no_grad() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        assert SeriesConv2d(conv, "cosine", (2, 2)).coefficients.requires_grad


def test_coefficients_are_the_fit() -> None:
    conv = nn.Conv2d(3, 4, 5)
    assert torch.equal(SeriesConv2d(conv, "chebyshev", (3, 2)).coefficients, fit(conv.weight, "chebyshev", (3, 2)))


def test_training_mode_is_kept() -> None:
    assert not SeriesConv2d(nn.Conv2d(3, 4, 3).eval(), "cosine", (2, 2)).training


def test_random_state_is_left_alone() -> None:
    conv = nn.Conv2d(3, 4, 3)
    state = torch.get_rng_state()
    SeriesConv2d(conv, "cosine", (2, 2)).materialize()
    assert torch.equal(torch.get_rng_state(), state)


def test_repr_names_basis_and_order() -> None:
    text = repr(SeriesConv2d(nn.Conv2d(3, 8, 7, stride=2), "cosine", (5, 4)))
    assert text == "SeriesConv2d(3, 8, kernel_size=(7, 7), stride=(2, 2), basis=cosine, order=(5, 4))"


def test_an_order_above_the_kernel_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"order 4 .* 3 taps"):
        SeriesConv2d(nn.Conv2d(3, 4, 3), "cosine", (4, 4))


def test_a_weight_with_nan_is_refused() -> None:
    conv = nn.Conv2d(3, 4, 3)
    nn.init.constant_(conv.weight, float("nan"))
    with pytest.raises(NumericalError, match="NaN or infinite"):
        SeriesConv2d(conv, "cosine", (2, 2))
