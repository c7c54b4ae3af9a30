"""The bit stream: an independent reference, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from basis.errors import CompressionError
from quant.packing import pack, packed_size

WIDTHS = range(2, 17)


@st.composite
def _values(draw: st.DrawFn) -> tuple[list[int], int]:
    bits = draw(st.sampled_from(WIDTHS))
    return draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=70)), bits


def _reference(values: list[int], bits: int) -> list[int]:
    """The stream as one large Python integer."""
    stream = sum((value % 2**bits) << (bits * i) for i, value in enumerate(values))
    return list(stream.to_bytes((len(values) * bits + 7) // 8, "little"))


def _integers(values: list[int], bits: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int8 if bits <= 8 else torch.int16)


def _int8(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int8)


@given(_values())
def test_a_reference(case: tuple[list[int], int]) -> None:
    values, bits = case
    packed = pack(_integers(values, bits), bits)
    assert packed.tolist() == _reference(values, bits)


def test_twelve_bits_put_two_values_in_three_bytes() -> None:
    assert pack(_integers([0x123, 0x456], 12), 12).tolist() == [0x23, 0x61, 0x45]
    assert pack(_integers([-1, 0], 12), 12).tolist() == [0xFF, 0x0F, 0x00]


def test_sixteen_bits_put_the_low_byte_first() -> None:
    assert pack(_integers([0x1234, -2], 16), 16).tolist() == [0x34, 0x12, 0xFE, 0xFF]


def test_four_bits_put_the_first_value_in_the_low_nibble() -> None:
    assert pack(_int8([1, -1, 7]), 4).tolist() == [0xF1, 0x07]


def test_eight_bits_are_the_bytes_and_not_an_alias() -> None:
    values = _int8([1, -1, -128])
    packed = pack(values, 8)
    assert packed.tolist() == [1, 255, 128]
    packed.zero_()
    assert values.tolist() == [1, -1, -128]


def test_non_contiguous_values_are_packed_in_their_order() -> None:
    values = torch.arange(-6, 6, dtype=torch.int8).reshape(3, 4).t()
    assert torch.equal(pack(values, 5), pack(values.contiguous(), 5))


@pytest.mark.parametrize("bits", WIDTHS)
def test_size(bits: int) -> None:
    assert packed_size(13, bits) == pack(_integers([0] * 13, bits), bits).numel() == -(-13 * bits // 8)


@pytest.mark.parametrize("value", [-9, 8])
def test_value_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(CompressionError, match=r"4 bits: -8\.\.7"):
        pack(_int8([0, value]), 4)


@pytest.mark.parametrize("value", [-2049, 2048])
def test_wide_value_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(CompressionError, match=r"12 bits: -2048\.\.2047"):
        pack(_integers([0, value], 12), 12)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(CompressionError, match="allowed: int8"):
        pack(torch.zeros(3), 4)
    with pytest.raises(CompressionError, match="int16; allowed: int8"):
        pack(_integers([1], 12), 8)
    with pytest.raises(CompressionError, match="int8; allowed: int16"):
        pack(_int8([1]), 12)


@pytest.mark.parametrize("bits", [1, 17, -4, 4.0, True])
def test_wrong_width_is_refused(bits: int) -> None:
    with pytest.raises(CompressionError, match=r"^pack.* got .*allowed.*\b2 to 16"):
        pack(_int8([0]), bits)
