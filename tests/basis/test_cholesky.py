"""Test the damped Cholesky factorization and the ridge regression on regular, singular and unusable matrices."""

import numpy as np
import pytest
import torch

from basis.cholesky import damped_cholesky, mean_diagonal, ridge_solution
from basis.errors import NumericalError


def gram(rows, features=6, seed=0):
    z = torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z.T @ z)[None]


def test_a_regular_matrix_is_factored_without_damping():
    matrix = gram(20)
    factor, damped = damped_cholesky(matrix, mean_diagonal(matrix), 0.0, smallest=1e-6)
    assert torch.equal(damped, matrix)
    np.testing.assert_allclose(factor[0].numpy(), np.linalg.cholesky(matrix[0].numpy()), rtol=1e-10)


def test_only_the_failing_matrix_gets_more_damping_if_each_has_its_own():
    matrices = torch.cat([gram(20), -1e-4 * torch.eye(6, dtype=torch.float64)[None]])
    ones = torch.ones(2, 1, 1, dtype=torch.float64)
    separate = damped_cholesky(matrices, ones, 0.0, smallest=1e-6, per_matrix=True)[1]
    together = damped_cholesky(matrices, ones, 0.0, smallest=1e-6)[1]
    assert torch.equal(separate[0], matrices[0])
    assert not torch.equal(together[0], matrices[0])
    assert torch.equal(separate[1], together[1])


def test_matrices_that_are_not_finite_or_indefinite_end_the_search():
    for matrix in (gram(20) * torch.nan, gram(20) * torch.inf, -gram(20)):
        assert damped_cholesky(matrix, torch.ones(1, 1, 1, dtype=torch.float64), 0.0, smallest=1e-6) is None


def test_a_first_damping_above_one_is_tried():
    matrix = gram(3)
    factor, damped = damped_cholesky(matrix, torch.ones(1, 1, 1, dtype=torch.float64), 2.0, smallest=1e-6)
    torch.testing.assert_close(damped[0], matrix[0] + 2 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(factor[0] @ factor[0].T, damped[0])
    assert damped_cholesky(-1e3 * matrix, torch.ones(1, 1, 1, dtype=torch.float64), 2.0, smallest=1e-6) is None


def test_ridge_regression_equals_numpys_solution():
    matrix, right = gram(3), torch.ones(1, 6, 2, dtype=torch.float64)
    damped = matrix[0].numpy() + 0.1 * float(mean_diagonal(matrix)) * np.eye(6)
    np.testing.assert_allclose(ridge_solution(matrix, right, 0.1)[0].numpy(), np.linalg.solve(damped, right[0].numpy()))
    with pytest.raises(NumericalError, match="finite"):
        ridge_solution(matrix * torch.nan, right)
