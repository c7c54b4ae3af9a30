"""The grid of steps and scales against float64, at its ends and with values that are not on it."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant.grid import MAX_EXPONENT, MIN_EXPONENT, ceiling_exponents, grid_exponents, grid_values, nearest_on_grid

ALL = torch.arange(MIN_EXPONENT, MAX_EXPONENT + 1)
POSITIVE = st.floats(2.0**-99, 2.0**99, width=32)


def test_values_are_the_float32_numbers_nearest_to_the_powers() -> None:
    expected = (2.0 ** (ALL.numpy() / 16)).astype(np.float32)
    np.testing.assert_array_equal(grid_values(ALL).numpy(), expected)


def test_values_of_the_grid_keep_their_exponents() -> None:
    values = grid_values(ALL)
    assert torch.equal(grid_exponents(values).long(), ALL)
    assert torch.equal(ceiling_exponents(values).long(), ALL)
    assert torch.equal(nearest_on_grid(values), values)


@given(POSITIVE)
def test_the_nearest_and_the_next_value_lie_around(value: float) -> None:
    above, nearest = int(ceiling_exponents(torch.tensor(value))), float(nearest_on_grid(torch.tensor(value)))
    assert 2.0 ** ((above - 1) / 16) < value * (1 + 1e-5)
    assert value <= 2.0 ** (above / 16) * (1 + 1e-5)
    assert abs(np.log2(nearest / value)) <= 1 / 32 + 1e-6


def test_values_outside_the_grid_get_its_ends_and_others_stay() -> None:
    values = torch.tensor([0.0, 1e-38, 3e38, torch.inf, torch.nan])
    got = nearest_on_grid(values)
    assert got[:3].tolist() == [2.0**-100, 2.0**-100, 2.0**100]
    assert torch.isposinf(got[3])
    assert torch.isnan(got[4])
    assert ceiling_exponents(values[:3]).tolist() == [MIN_EXPONENT, MIN_EXPONENT, MAX_EXPONENT]
