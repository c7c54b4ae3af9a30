"""Gram statistics of few rows."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from basis.activations import fit_activations
from basis.gram_statistics import ENOUGH_ROWS, GramStatistics
from basis.swap import swap_convolutions
from quant.hessian import linear_hessian, refit


def correlated(count: int, seed: int) -> torch.Tensor:
    noise = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise, 3, 1, 1)


@pytest.mark.parametrize(("rows", "scarcity"), [(2, 5 / 2 - 1 / 15), (74, 5 / 74 - 1 / 15), (75, 0.0), (10**4, 0.0)])
def test_rows_are_scarce_below_fifteen_for_each_feature(rows, scarcity):
    assert ENOUGH_ROWS == 15
    batches = [torch.ones(1, rows, 4)]
    statistics = GramStatistics.accumulate(batches, constant=True)
    assert statistics.scarcity == statistics.mean().scarcity == pytest.approx(scarcity)


def test_the_ridge_of_a_refit_is_numpys_with_the_scarcity():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(12, 6)), rng.normal(size=(12, 3)), rng.normal(size=(3, 6))
    statistics = linear_hessian(*(torch.tensor(values, dtype=torch.float32) for values in (x, y)))
    found = refit(statistics, torch.tensor(weight))
    second = x.T @ x / 12
    ridge = (1e-4 + 6 / 12 - 1 / 15) * second.diagonal().mean()
    change = np.linalg.solve(second + ridge * np.eye(6), x.T @ (y - x @ weight.T) / 12)
    np.testing.assert_allclose(found.numpy(), weight + change.T, rtol=1e-4, atol=1e-5)


def test_a_fit_to_few_rows_serves_other_images(monkeypatch):
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    others = correlated(64, seed=1)

    def error() -> float:
        model = swap_convolutions(copy.deepcopy(original), {"0": (2, 2), "2": (2, 2)}, "cosine").eval()
        fit_activations(model, original, correlated(1, seed=2))
        with torch.no_grad():
            return float((model(others) - original(others)).norm() / original(others).norm())

    regularized = error()
    monkeypatch.setattr(GramStatistics, "scarcity", 0.0)
    assert regularized < 0.9 * error()


def test_the_constant_gets_no_ridge_of_the_scarcity():
    rows = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    statistics = GramStatistics.accumulate([rows], constant=True)
    values = np.concatenate([rows[0].double().numpy(), np.ones((6, 1))], axis=1)
    gram = values.T @ values
    ridge = (5 / 6 - 1 / 15) * np.diag(gram)[:-1].mean()
    np.testing.assert_allclose(statistics.steadied()[0].numpy(), gram + ridge * np.diag([1, 1, 1, 1, 0]), rtol=1e-5)
    many = GramStatistics.accumulate([rows.repeat(1, 20, 1)], constant=True)
    assert torch.equal(many.steadied(), many.gram)
