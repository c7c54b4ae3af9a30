"""The factor of an inverse Hessian, against numpy, for matrices that are inverted at once and by halves."""

import numpy as np
import pytest
import torch

from quant.sweeps import damped_hessian, inverse_root


@pytest.mark.parametrize("features", [1, 7, 256, 257, 611])
def test_the_root_is_the_upper_cholesky_factor_of_the_inverse(features):
    inputs = np.random.default_rng(features).normal(size=(2, features, 2 * features))
    grams = inputs @ inputs.transpose(0, 2, 1)
    hessian, root = damped_hessian(torch.from_numpy(grams), 0.01)
    unit = grams / grams.diagonal(axis1=1, axis2=2).mean(1)[:, None, None]
    np.testing.assert_allclose(hessian.numpy(), unit + 0.01 * np.eye(features), rtol=1e-12)
    expected = np.linalg.cholesky(np.linalg.inv(unit + 0.01 * np.eye(features))).transpose(0, 2, 1)
    np.testing.assert_allclose(root.numpy(), expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(inverse_root(torch.from_numpy(grams), 0.01), root)
