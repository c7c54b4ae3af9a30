"""Kernels of parametric families against definitions in numpy and scipy, and their derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy.special import binom, hermite

from basis.errors import CompressionError
from basis.parametric.evaluation import kernels, kernels_and_jacobian, limits, profiles_of, reconstruct
from basis.parametric.exponential import portable_exp
from basis.parametric.families import FAMILIES
from basis.parametric.fracsrf import derivative_table

KERNELS = [(3, 3), (1, 4), (5, 2), (7, 7)]


def stored_slices(family: str, count: int = 40) -> torch.Tensor:
    """Stored values within the ranges, (P, count)."""
    generator = torch.Generator().manual_seed(0)
    _, largest = limits(family)
    values = 2 * torch.rand(FAMILIES[family].values, count, generator=generator, dtype=torch.float64) - 1
    return values * largest.clamp_max(5)[:, None]


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)


def gaussian_derivative(v: float, taps: int) -> np.ndarray:
    """The interpolated derivative, with scipy's Hermite polynomials of physics as in the authors' code."""
    if taps == 1:
        return np.ones(1)
    x, n = np.linspace(-2, 2, taps), min(int(v), 8)
    orders = [unit((-(2**-0.5)) ** m * hermite(m)(x / 2**0.5) * np.exp(-(x**2) / 2)) for m in (n, n + 1)]
    return (n + 1 - v) * orders[0] + (v - n) * orders[1]


def test_fracsrf_is_a_product_of_interpolated_derivatives():
    stored = stored_slices("fracsrf")
    for kernel in KERNELS:
        found = kernels(stored, "fracsrf", kernel).permute(2, 0, 1).numpy()
        for (a, vx, vy), slice_ in zip(stored.T.numpy(), found, strict=True):
            wanted = a * np.outer(gaussian_derivative(vy + 4.5, kernel[0]), gaussian_derivative(vx + 4.5, kernel[1]))
            np.testing.assert_allclose(slice_, wanted, atol=1e-8)


def test_fractional_is_a_grunwald_letnikov_derivative():
    stored = stored_slices("fractional")
    for height, width in KERNELS:
        y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
        found = kernels(stored, "fractional", (height, width)).permute(2, 0, 1).numpy()
        for (amplitude, a, x0, y0, u), slice_ in zip(stored.T.numpy(), found, strict=True):
            a, r = a + 1, 1 / (u + 2.125)
            terms = [(-1) ** j * binom(a, j) * np.exp(-((x - j / 2 - x0) ** 2) / r) for j in range(15)]
            wanted = amplitude * np.outer(unit(np.exp(-((y - y0) ** 2) / r)), unit(sum(terms)))
            np.testing.assert_allclose(slice_, wanted, atol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_are_those_of_differences(family, kernel):
    stored, step = 0.9 * stored_slices(family), 1e-6
    found, jacobian = kernels_and_jacobian(stored, family, kernel)
    torch.testing.assert_close(found, kernels(stored, family, kernel))
    for place in range(len(stored)):
        change = torch.zeros(len(stored), 1, dtype=torch.float64)
        change[place] = step
        difference = kernels(stored + change, family, kernel) - kernels(stored - change, family, kernel)
        torch.testing.assert_close(jacobian[place], difference / (2 * step), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_outside_the_ranges_are_those_of_the_ends_and_finite(family):
    least, largest = limits(family)
    far = torch.stack([least, largest], dim=1).clamp(-1e30, 1e30) * 1e6
    far[0] = 1
    ends = torch.stack([least, largest], dim=1)
    ends[0] = 1
    for kernel in KERNELS:
        found, jacobian = kernels_and_jacobian(far, family, kernel)
        torch.testing.assert_close(found, kernels(ends, family, kernel), rtol=0, atol=0)
        assert bool(torch.isfinite(jacobian).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_is_evaluated_slice_by_slice_in_its_type(family):
    stored = stored_slices(family, 5000).T.reshape(50, 100, 1, -1).float()
    found = reconstruct(stored, family, (3, 3))
    assert (found.shape, found.dtype) == ((50, 100, 3, 3), torch.float32)
    some = kernels(stored[49, 50:].reshape(50, -1).T, family, (3, 3)).permute(2, 0, 1)
    torch.testing.assert_close(found[49, 50:], some.float(), rtol=0, atol=0)


def test_the_exponential_is_right_to_two_units_in_the_last_place():
    z = -torch.cat([torch.linspace(0, 700, 100_001), torch.logspace(-20, 2, 1001)]).double()
    wanted = np.array([math.exp(each) for each in z.tolist()])
    assert np.max(np.abs(portable_exp(z).numpy() - wanted) / np.spacing(wanted)) <= 2
    assert float(portable_exp(torch.tensor(-1e300, dtype=torch.float64))) == float(portable_exp(z.new_tensor(-700.0)))


def test_derivatives_have_norm_1_and_alternate_in_symmetry():
    table = derivative_table(5)
    torch.testing.assert_close(table.square().sum(1), torch.ones(10, dtype=torch.float64), atol=1e-8, rtol=0)
    signs = torch.tensor([1.0, -1.0]).repeat(5)[:, None]
    torch.testing.assert_close(table.flip(1), signs * table, rtol=0, atol=0, check_dtype=False)


def test_an_unknown_family_is_refused():
    with pytest.raises(CompressionError, match=r"family 'cosine' is unknown; allowed: fracsrf, fractional"):
        profiles_of("cosine")
