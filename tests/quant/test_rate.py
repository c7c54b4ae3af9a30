"""Steps and predicted bits, against numpy references."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant.grid import grid_values
from quant.rate import LayerMeasurement, RatePlan, entropy_bits, nearest_to_steps
from quant.stepped import SteppedTensor


def test_steps_are_c_over_the_root_of_the_costs():
    costs = 0.02 * torch.tensor([[0.3, 4.0], [0.01, 77.0]], dtype=torch.float64)
    measurement = LayerMeasurement(costs)
    c = 0.37
    expected = c / np.sqrt(costs.numpy())
    np.testing.assert_allclose(2 ** (measurement.log_steps(16 * math.log2(c)).numpy() / 16), expected, rtol=1e-12)
    steps = grid_values(measurement.exponents(16 * math.log2(c))).numpy()
    assert np.abs(np.log2(steps / expected)).max() <= 1 / 32 + 1e-6


@given(
    st.lists(st.integers(-(2**17), 2**17), min_size=8, max_size=8),
    st.lists(st.integers(-1600, 1600), min_size=4, max_size=4),
)
def test_integers_times_steps_come_back(integers, exponents):
    stepped = SteppedTensor(
        torch.tensor(integers, dtype=torch.int32).view(2, 1, 2, 2),
        torch.tensor(exponents, dtype=torch.int16).view(2, 2),
    )
    again = nearest_to_steps(stepped.dequantize(), stepped.exponents)
    assert torch.equal(again.integers, stepped.integers)
    assert torch.equal(again.dequantize(), stepped.dequantize())


def entropy_reference(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    share = counts / values.size
    return -float((counts * np.log2(share)).sum()) + 0.5 * (len(counts) - 1) * math.log2(values.size)


@pytest.mark.parametrize("spread", [0, 1, 20, 10**6])
def test_bits_are_the_entropy_of_each_term_and_its_table(spread):
    generator = np.random.default_rng(0)
    integers = generator.integers(-spread, spread + 1, size=(6, 5, 2, 3), dtype=np.int32)
    by_term = sum(entropy_reference(integers[:, :, i, j]) for i in range(2) for j in range(3))
    tensor = torch.from_numpy(integers)
    assert entropy_bits(SteppedTensor(tensor, torch.zeros(2, 3, dtype=torch.int16))) == pytest.approx(by_term)
    whole = entropy_bits(SteppedTensor(tensor, torch.tensor(0, dtype=torch.int16)))
    assert whole == pytest.approx(entropy_reference(integers))


def plan_of(seed: int = 0, zero: bool = False) -> tuple[RatePlan, list[str], int]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (16, 8, 3, 3), "depthwise": (32, 1, 2, 2), "linear": (10, 40)}
    values = {name: torch.randn(shape, generator=generator) * (not zero) for name, shape in shapes.items()}
    measured = {
        name: LayerMeasurement((0.1 * rank + 0.01) * (torch.rand(shape[2:], generator=generator).double() + 0.1))
        for rank, (name, shape) in enumerate(shapes.items())
    }
    return RatePlan(values, measured), list(shapes), sum(each.numel() for each in values.values())


@pytest.mark.parametrize("per_value", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_the_plan_meets_any_number_of_bits(per_value):
    plan, names, count = plan_of()
    log_c = plan.log_c(names, per_value * count)
    low, high = (sum(plan.bits(name, bound) for name in names) for bound in (math.floor(log_c), math.ceil(log_c)))
    assert high <= per_value * count <= low
    assert high > 0.85 * per_value * count


def test_the_nearest_rounding_of_a_plan_has_its_bits():
    plan, names, count = plan_of()
    layers = plan.nearest(1.5 * count)
    assert list(layers) == names
    log_c = round(plan.log_c(names, 1.5 * count))
    assert sum(map(entropy_bits, layers.values())) == pytest.approx(sum(plan.bits(name, log_c) for name in names))


def test_coarser_steps_take_fewer_bits():
    plan, names, _ = plan_of()
    bits = [sum(plan.bits(name, log_c) for name in names) for log_c in range(-120, 60, 4)]
    assert all(after <= 1.02 * before + 20 for before, after in itertools.pairwise(bits))
    assert bits[-1] == 0 < bits[0]


def test_bits_beyond_all_and_below_zero_are_the_ends_of_the_plan():
    plan, names, count = plan_of()
    coarsest = plan.log_c(names, 0)
    assert sum(plan.bits(name, math.ceil(coarsest)) for name in names) == 0
    assert plan.log_c(names, -1.0) >= coarsest
    finest = plan.log_c(names, 1e9 * count)
    assert finest < coarsest - 200
    zeros, names, _ = plan_of(zero=True)
    assert zeros.bits(names[0], round(zeros.log_c(names, 100.0))) == 0
