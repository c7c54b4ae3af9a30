"""The separable form against the dense one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from basis.errors import CompressionError
from basis.least_squares import reconstruct
from basis.separable import SeparableConv2d


@st.composite
def cases(draw):
    """Any convolution with a series order that fits it, on an image large enough for it."""
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    order = tuple(draw(st.integers(1, size)) for size in kernel)
    groups = draw(st.sampled_from([1, 2, 3]))
    padding = draw(st.sampled_from([0, 1, (1, 2), "same", "valid"]))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, (2, 1)]))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride,
        padding,
        dilation=draw(st.sampled_from([1, 2])),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )
    return conv, order, draw(st.sampled_from(["cosine", "chebyshev"]))


@given(cases(), st.integers(0, 10))
@settings(max_examples=150)
def test_it_equals_the_dense_form(case, seed):
    conv, order, basis = case
    generator = torch.Generator().manual_seed(seed)
    conv = conv.double()
    coefficients = torch.randn(*conv.weight.shape[:2], *order, generator=generator, dtype=torch.float64)
    conv.weight.data = reconstruct(coefficients, basis, conv.kernel_size)
    x = torch.randn(2, conv.in_channels, 13, 12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(SeparableConv2d(conv, coefficients, basis)(x), conv(x), rtol=1e-9, atol=1e-9)


def test_it_agrees_in_float32_and_channels_last():
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 32, 3, padding=1)
    coefficients = 0.1 * torch.randn(32, 64, 2, 2)
    conv.weight.data = reconstruct(coefficients, "cosine", (3, 3))
    x = torch.randn(2, 64, 14, 14).to(memory_format=torch.channels_last)
    separable = SeparableConv2d(conv, coefficients, "cosine").to(memory_format=torch.channels_last)
    torch.testing.assert_close(separable(x), conv(x), rtol=1e-4, atol=1e-4)


def test_the_1x1_convolution_has_the_stored_coefficients_only():
    conv = nn.Conv2d(6, 4, 3, groups=2)
    coefficients = torch.randn(4, 3, 2, 2)
    separable = SeparableConv2d(conv, coefficients, "chebyshev").eval()
    assert torch.equal(separable.mix.weight.flatten(), coefficients.flatten())
    assert [name for name, parameter in separable.named_parameters() if parameter.requires_grad] == [
        "mix.weight",
        "mix.bias",
    ]
    assert not separable.mix.training


def test_coefficients_of_another_layer_are_refused():
    with pytest.raises(CompressionError, match=r"shape \(4, 4, 2, 2\); allowed: \(4, 3, 'nh', 'nw'\)"):
        SeparableConv2d(nn.Conv2d(3, 4, 3), torch.zeros(4, 4, 2, 2), "cosine")
    with pytest.raises(CompressionError, match=r"order 4 .* 3 taps"):
        SeparableConv2d(nn.Conv2d(3, 4, 3), torch.zeros(4, 3, 4, 4), "cosine")
