"""Compensated rounding to steps and its Hessian, against numpy references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basis.errors import NumericalError
from basis.gram_statistics import GramStatistics
from quant.grid import grid_values
from quant.rate import entropy_bits, nearest_to_steps
from quant.step_rounding import (
    DAMPING,
    column_steps,
    columns_hessian,
    factor_hessian,
    measure_freedoms,
    round_to_steps,
)


def inputs(groups: int, rows: int, features: int, seed: int = 0) -> np.ndarray:
    """Correlated rows with a mean, (groups, rows, features)."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(groups, rows, features)) @ generator.normal(size=(groups, features, features))
    return mixed / features**0.5 + generator.normal(size=(groups, 1, features))


def hessian_of(groups: int, features: int, seed: int = 0) -> np.ndarray:
    rows = inputs(groups, 4 * features, features, seed)
    return np.swapaxes(rows, 1, 2) @ rows / (4 * features)


def damped(hessian: np.ndarray) -> np.ndarray:
    mean = np.trace(hessian, axis1=1, axis2=2)[:, None, None] / hessian.shape[1]
    return hessian + DAMPING * mean * np.eye(hessian.shape[1])


def freedoms_reference(hessian: np.ndarray, terms: tuple[int, ...]) -> np.ndarray:
    """Geometric means of 1 / (H^-1)_jj over the columns of each term."""
    freedoms = 1 / np.diagonal(np.linalg.inv(damped(hessian)), axis1=1, axis2=2)
    by_term = np.log(freedoms).reshape(len(hessian), -1, math.prod(terms)).mean((0, 1))
    return np.exp(by_term).reshape(terms)


@pytest.mark.parametrize(("groups", "slices", "terms"), [(1, 4, (2, 3)), (3, 1, (3, 3)), (2, 5, (1, 1)), (1, 7, ())])
def test_freedoms_are_geometric_means_of_the_inverse_diagonal(groups, slices, terms):
    hessian = hessian_of(groups, slices * math.prod(terms))
    found = measure_freedoms(torch.from_numpy(hessian), terms)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), freedoms_reference(hessian, terms), rtol=1e-9)


@pytest.mark.parametrize("centered", [False, True])
def test_a_hessian_is_the_second_moment_or_the_covariance(centered):
    rows = inputs(2, 50, 6)
    batches = torch.from_numpy(rows).float().split(20, dim=1)
    hessian = columns_hessian(GramStatistics.accumulate(batches, constant=True), centered=centered)
    expected = [np.cov(each.T, bias=True) if centered else each.T @ each / len(each) for each in rows]
    np.testing.assert_allclose(hessian.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", [9, 108])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-4])
def test_nearly_constant_inputs_have_a_hessian_that_can_be_factored(features, noise):
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(1, 1, features, generator=generator)
    rows = level + noise * torch.randn(3, 30_000, features, generator=generator)
    rows[1], rows[2] = 0, rows[2] - level[0]
    hessian = columns_hessian(GramStatistics.accumulate([rows], constant=True), centered=True)
    columns = torch.randn(3, features, 4, generator=generator).double()
    assert not hessian[1].any()
    zero = torch.tensor(0, dtype=torch.int16)
    assert measure_freedoms(hessian, ()).isfinite()
    assert round_to_steps(
        columns, factor_hessian(hessian, torch.ones(features)), zero, torch.Size((12, features))
    ).integers.any()


def rounding_reference(columns: np.ndarray, hessian: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Integers of one group, (F, O), row by row: compensated rounding, single moves, and the best pairs."""
    matrix = damped(hessian[None])[0] * np.outer(steps, steps)
    order = np.argsort(-np.diagonal(hessian) * steps**2, kind="stable")
    matrix, target = matrix[np.ix_(order, order)], (columns / steps[:, None])[order]
    rows = [_with_moves(gptq_reference(row, matrix), row, matrix) for row in target.T]
    return np.stack(rows, axis=1)[np.argsort(order)]


def gptq_reference(row: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Later columns compensate for each error, with explicit inverses."""
    remaining, integers = row.copy(), np.zeros(len(row))
    for i in range(len(row)):
        inverse = np.linalg.inv(matrix[i:, i:])
        integers[i] = np.rint(remaining[i])
        remaining[i:] -= inverse[:, 0] / inverse[0, 0] * (remaining[i] - integers[i])
    return integers


def _with_moves(integers: np.ndarray, row: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    def error(moved: np.ndarray) -> float:
        return float((row - moved) @ matrix @ (row - moved))

    for j in range(len(row)):
        integers[j] = np.rint(integers[j] + matrix[j] @ (row - integers) / matrix[j, j])
    for _ in range(64):
        directions = np.where(matrix @ (row - integers) < 0, -1, 1)
        moves = [np.eye(len(row))[j] + (j != k) * np.eye(len(row))[k] for j in range(len(row)) for k in range(j + 1)]
        best = min((integers + each * directions for each in moves), key=error)
        if error(best) > error(integers) - 1e-6 * np.diagonal(matrix).mean():
            break
        integers = best
    return integers


@pytest.mark.parametrize(
    ("groups", "shape"),
    [(1, (4, 3, 2, 3)), (1, (2, 40, 1, 1)), (6, (6, 1, 3, 3)), (2, (4, 5, 2, 2)), (1, (5, 11))],
)
def test_rounding_to_steps_is_compensated_and_then_moved(groups, shape):
    features, terms = math.prod(shape[1:]), shape[2:]
    generator = np.random.default_rng(1)
    hessian = hessian_of(groups, features, seed=2)
    columns = generator.normal(size=(groups, features, shape[0] // groups))
    exponents = generator.integers(-30, -10, size=terms).astype(np.int16)
    steps = np.tile(2.0 ** (exponents.astype(float).ravel() / 16), features // exponents.size)
    rounded = round_to_steps(
        torch.from_numpy(columns),
        factor_hessian(torch.from_numpy(hessian), 3 * torch.from_numpy(steps)),
        torch.from_numpy(np.asarray(exponents)),
        torch.Size(shape),
    )
    references = [rounding_reference(each, matrix, steps).T for each, matrix in zip(columns, hessian, strict=True)]
    np.testing.assert_array_equal(rounded.integers.numpy(), np.concatenate(references).reshape(shape))
    assert rounded.exponents.shape == terms


def test_compensation_lowers_the_output_error():
    hessian = torch.from_numpy(hessian_of(1, 30))
    values = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    exponent = torch.tensor(0, dtype=torch.int16)
    factored = factor_hessian(hessian, torch.ones(30))
    found = (
        round_to_steps(values.T[None].double(), factored, exponent, values.shape),
        nearest_to_steps(values, exponent),
    )
    compensated, nearest = (
        float(((error := (each.dequantize() - values).double()) @ hessian[0] * error).sum()) for each in found
    )
    assert compensated < 0.7 * nearest


def test_independent_columns_are_rounded_to_the_nearest():
    hessian = torch.diag(torch.rand(12, dtype=torch.float64) + 0.5)[None]
    values = torch.randn(4, 3, 2, 2)
    exponents = torch.tensor([[-9, 3], [0, -40]], dtype=torch.int16)
    factored = factor_hessian(hessian, column_steps(exponents, 12))
    rounded = round_to_steps(values.flatten(1).T[None].double(), factored, exponents, values.shape)
    assert torch.equal(rounded.integers, nearest_to_steps(values, exponents).integers)


def test_values_must_be_finite_and_a_hessian_without_a_factor_rounds_to_nearest():
    good, exponent = torch.ones(1, 2, 1, dtype=torch.float64), torch.tensor(0, dtype=torch.int16)
    indefinite = torch.tensor([[[1.0, 3.0], [3.0, 1.0]]], dtype=torch.float64)
    with pytest.raises(NumericalError):
        round_to_steps(
            good * torch.nan, factor_hessian(torch.eye(2).double()[None], torch.ones(2)), exponent, torch.Size((1, 2))
        )
    rounded = round_to_steps(good, factor_hessian(indefinite, torch.ones(2)), exponent, torch.Size((1, 2)))
    assert rounded.integers.tolist() == [[1, 1]]  # to nearest


WEIGHTS = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=8, max_size=8)
EXPONENTS = st.lists(st.integers(-1600, 1600), min_size=4, max_size=4)


@given(WEIGHTS, EXPONENTS)
def test_any_weights_are_rounded_at_any_steps(weights, exponents):
    values = torch.tensor(weights, dtype=torch.float32).view(2, 1, 2, 2)
    grid = torch.tensor(exponents, dtype=torch.int16).view(2, 2)
    factored = factor_hessian(torch.eye(4, dtype=torch.float64)[None], column_steps(grid, 4))
    for found in (
        nearest_to_steps(values, grid),
        round_to_steps(values.flatten(1).T[None].double(), factored, grid, values.shape),
    ):
        inside = found.integers.abs() < 2**24 - 1
        difference = (found.dequantize() - values).double().abs()
        allowed = 0.5 * grid_values(grid).double() + 2.0**-22 * values.double().abs()
        assert (difference <= allowed)[inside].all()
        assert entropy_bits(found) >= 0


def test_inputs_that_hardly_vary_have_finite_freedoms_and_are_rounded():
    rows = 100 + 1e-5 * torch.randn(1, 4096, 32, generator=torch.Generator().manual_seed(0))
    statistics = GramStatistics.accumulate([rows], [rows[..., :1]], constant=True)
    hessian = columns_hessian(statistics, centered=True)
    freedoms = measure_freedoms(hessian, ())
    assert bool(torch.isfinite(freedoms) & (freedoms > 0))
    columns, exponent = torch.linspace(-1, 1, 64, dtype=torch.float64).view(1, 32, 2), torch.tensor(-64).short()
    rounded = round_to_steps(columns, factor_hessian(hessian, torch.ones(32)), exponent, torch.Size((2, 32)))
    assert float((rounded.dequantize() - columns[0].T).norm()) < 0.3
