"""Integers with a step per term: exact values, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basis.errors import CompressionError
from quant.grid import MAX_EXPONENT, MIN_EXPONENT
from quant.stepped import LARGEST_INTEGER, SteppedTensor


def stepped(integers: torch.Tensor, exponents: torch.Tensor) -> SteppedTensor:
    return SteppedTensor(integers, exponents)


@given(
    st.lists(st.integers(-LARGEST_INTEGER, LARGEST_INTEGER), min_size=12, max_size=12),
    st.lists(st.integers(MIN_EXPONENT + 16 * 25, MAX_EXPONENT - 16 * 25), min_size=6, max_size=6),
)
def test_values_are_float32_products(integers, exponents):
    tensor = torch.tensor(integers, dtype=torch.int32).view(2, 1, 2, 3)
    steps = (2.0 ** (np.array(exponents) / 16)).astype(np.float32).reshape(2, 3)
    found = stepped(tensor, torch.tensor(exponents, dtype=torch.int16).view(2, 3)).dequantize()
    np.testing.assert_array_equal(found.numpy(), tensor.numpy().astype(np.float32) * steps)


def test_one_step_serves_tensors_of_any_axes():
    for shape in ((7,), (3, 4), (2, 3, 4)):
        integers = torch.randint(-5, 6, shape, dtype=torch.int32)
        found = stepped(integers, torch.tensor(-32, dtype=torch.int16)).cpu()
        assert torch.equal(found.dequantize(), integers / 4)


INTEGERS = torch.ones(2, 3, 2, 2, dtype=torch.int32)
ZERO = torch.tensor(0, dtype=torch.int16)


@pytest.mark.parametrize(
    ("integers", "exponents", "words"),
    [
        (INTEGERS.float(), ZERO, "float32"),
        (INTEGERS[:0], ZERO, "non-empty"),
        (INTEGERS[0, 0, 0, 0], ZERO, "axes"),
        (INTEGERS * (LARGEST_INTEGER + 1), ZERO, f"{LARGEST_INTEGER}"),
        (INTEGERS * -(LARGEST_INTEGER + 1), ZERO, f"{LARGEST_INTEGER}"),
        (INTEGERS, ZERO.int(), "int16"),
        (INTEGERS, ZERO.expand(2), r"\(2,\)"),
        (INTEGERS, ZERO.expand(2, 3), r"\(2, 3\)"),
        (INTEGERS[0], ZERO.expand(2, 2), r"\(2, 2\)"),
        (INTEGERS, ZERO - 1601, "1600"),
        (INTEGERS, ZERO + 1601, "1600"),
    ],
)
def test_other_tensors_are_refused(integers, exponents, words):
    with pytest.raises(CompressionError, match=rf"SteppedTensor.*{words}.*"):
        SteppedTensor(integers, exponents)
