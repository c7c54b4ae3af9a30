"""The poster's small floats: every pattern, an independent reference, and the ends of the range."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from basis.errors import CompressionError
from quant.minifloat import MinifloatFormat, MinifloatTensor, decode, encode, nearest

WIDTHS = range(2, 9)


def _patterns(bits: int) -> Tensor:
    return torch.arange(-(2 ** (bits + 7)), 2 ** (bits + 7)).to(torch.int16)


def _sizes(bits: int) -> npt.NDArray[np.float64]:
    """Every value that is not negative, by the definition, in the order of its pattern."""
    exponent, mantissa = np.divmod(np.arange(2 ** (bits + 7)), 2**bits)
    normal = 2.0 ** (exponent - 63.0) * (1 + mantissa / 2**bits)
    sizes: npt.NDArray[np.float64] = np.where(exponent > 0, normal, 2.0**-62 * mantissa / 2**bits)
    return sizes


def _reference(values: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float64]:
    """The nearest of all values, ties to the even pattern."""
    sizes = _sizes(bits)
    above = np.clip(np.searchsorted(sizes, np.abs(values)), 1, len(sizes) - 1)
    low, high = np.abs(values) - sizes[above - 1], sizes[above] - np.abs(values)
    chosen = np.where((low < high) | ((low == high) & (above % 2 == 1)), above - 1, above)
    rounded: npt.NDArray[np.float64] = np.copysign(sizes[chosen], values)
    return rounded


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_pattern_comes_back(bits: int) -> None:
    patterns = _patterns(bits)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(encode(decode(patterns, MinifloatFormat(bits)).to(dtype), MinifloatFormat(bits)), patterns)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_pattern_has_the_value_of_the_definition(bits: int) -> None:
    values = decode(_patterns(bits), MinifloatFormat(bits))
    assert values.dtype == torch.float32
    half = len(values) // 2
    np.testing.assert_array_equal(values[half:].numpy(), _sizes(bits))
    np.testing.assert_array_equal(values[:half].numpy(), -_sizes(bits))
    assert torch.signbit(values[0])


@pytest.mark.parametrize(("bits", "stored"), [(2, 10), (4, 12), (8, 16)])
def test_the_format_tells_its_ends(bits: int, stored: int) -> None:
    format, sizes = MinifloatFormat(bits), _sizes(bits)
    assert format.stored_bits == stored
    assert (format.largest, format.smallest) == (sizes[-1], sizes[1])
    assert format.smallest_normal == sizes[2**bits] == 2.0**-62


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    st.sampled_from(WIDTHS),
)
def test_any_float32_goes_to_the_nearest_value(values: list[float], bits: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    expected = _reference(tensor.double().numpy(), bits)
    for given_values in (tensor, tensor.double()):
        rounded = nearest(given_values, MinifloatFormat(bits))
        assert rounded.dtype == given_values.dtype
        np.testing.assert_array_equal(rounded.numpy(), expected)
        np.testing.assert_array_equal(np.signbit(rounded.numpy()), np.signbit(tensor.numpy()))


@pytest.mark.parametrize("bits", WIDTHS)
def test_ties_and_neighbours_at_every_step(bits: int) -> None:
    sizes = _sizes(bits)
    ties = (sizes[1:] + sizes[:-1]) / 2
    values = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf), [sizes[-1] * 1.5, 1e300]])
    rounded = nearest(torch.from_numpy(values), MinifloatFormat(bits)).numpy()
    np.testing.assert_array_equal(rounded, _reference(values, bits))


def test_small_values_keep_their_sign_and_large_ones_saturate() -> None:
    format = MinifloatFormat(4)
    rounded = nearest(torch.tensor([-1e-30, 3e38, -3e38]), format)
    assert rounded.tolist() == [0.0, format.largest, -format.largest]
    assert torch.signbit(rounded).tolist() == [True, False, True]


def test_relative_error_is_half_a_step() -> None:
    values = torch.randn(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.02
    for bits in WIDTHS:
        error = (nearest(values, MinifloatFormat(bits)) - values).abs() / values.abs()
        half = 2.0 ** -(bits + 1)
        assert 0.95 * half / (1 + half) < error.max() <= half / (1 + half)


@pytest.mark.parametrize("bits", [1, 9, 4.0, True])
def test_width_out_of_range_is_refused(bits: object) -> None:
    with pytest.raises(CompressionError, match=r"MinifloatFormat.* got .*allowed.*\b2 to 8"):
        MinifloatFormat(bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("integers", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.int8), "non-empty int16"),
        (torch.zeros(0, 3, dtype=torch.int16), "non-empty int16"),
        (torch.tensor(1, dtype=torch.int16), "non-empty int16"),
        (torch.full((2, 3), 2048, dtype=torch.int16), r"12 bits: -2048\.\.2047"),
        (torch.full((2, 3), -2049, dtype=torch.int16), r"12 bits: -2048\.\.2047"),
    ],
)
def test_what_is_no_pattern_is_refused(integers: Tensor, words: str) -> None:
    with pytest.raises(CompressionError, match=words):
        MinifloatTensor(integers, MinifloatFormat(4))


def test_dequantize_and_cpu_give_the_values() -> None:
    values = torch.tensor([[0.5, -3.0], [0.0, 2.0**-66]])
    stored = MinifloatTensor(encode(values, MinifloatFormat(4)), MinifloatFormat(4))
    assert torch.equal(stored.dequantize(), values)
    assert torch.equal(stored.cpu().dequantize(), values)
    assert stored.scale is None
