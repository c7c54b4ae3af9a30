"""Fits to the weights: exact kernels, Adam's error, and slices without a direction."""

import pytest
import torch
from torch import nn

from basis.errors import NumericalError
from basis.parametric.conv import ParametricConv2d
from basis.parametric.evaluation import limits, reconstruct
from basis.parametric.families import FAMILIES
from basis.parametric.fitting import fit_parameters
from basis.parametric.normal_equations import damped_solution, gram
from tests.basis.parametric.test_evaluation import stored_slices


def squared_errors(weight: torch.Tensor, stored: torch.Tensor, family: str) -> torch.Tensor:
    difference = weight - reconstruct(stored, family, tuple(weight.shape[2:]))
    return difference.double().square().sum((2, 3)) / weight.double().square().sum((2, 3))


def adams_errors(weight: torch.Tensor, family: str) -> torch.Tensor:
    """600 steps of Adam, 200 at each of three rates, from the middle of the ranges: the schedule of the authors."""
    conv = ParametricConv2d(nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:])), family).double()
    start = (0.5 * stored_slices(family, weight[:, :, 0, 0].numel())).clamp(-1, 1)
    conv.coefficients.data.copy_(start.T.view(conv.coefficients.shape))
    for rate in (0.1, 0.01, 0.001):
        optimizer = torch.optim.Adam([conv.coefficients], lr=rate)
        for _ in range(200):
            optimizer.zero_grad()
            (conv.filters() - weight).square().sum().backward()
            optimizer.step()
    return squared_errors(weight, conv.coefficients.detach(), family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_is_better_than_600_steps_of_adam(family):
    weight = torch.randn(8, 10, 3, 3, generator=torch.Generator().manual_seed(1))
    ours, adams = squared_errors(weight, fit_parameters(weight, family), family), adams_errors(weight, family)
    assert float(ours.mean()) < 0.95 * float(adams.mean())
    assert float((ours <= adams + 0.01).double().mean()) > 0.75


@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (7, 7)])
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_of_the_family_are_found_again(family, kernel):
    stored = 0.8 * stored_slices(family, 60).T.reshape(6, 10, 1, -1)
    weight = reconstruct(stored, family, kernel)
    errors = squared_errors(weight, fit_parameters(weight, family), family)
    assert float(errors.median()) < 1e-5
    assert float(errors.mean()) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_in_range_and_the_sign_is_the_amplitudes(family):
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2)).to(torch.float32)
    found, negated = fit_parameters(weight, family), fit_parameters(-weight, family)
    least, largest = limits(family)
    assert bool(((found >= least) & (found <= largest)).all())
    torch.testing.assert_close(found[..., 0], -negated[..., 0])
    torch.testing.assert_close(found[..., 1:], negated[..., 1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slice_of_zeros_has_the_amplitude_0(family):
    weight = torch.zeros(2, 3, 3, 3)
    weight[0, 0] = 1
    found = fit_parameters(weight, family)
    assert found.shape == (2, 3, 1, FAMILIES[family].values)
    assert bool(torch.isfinite(found).all())
    assert bool((reconstruct(found, family, (3, 3))[1] == 0).all())


def test_a_weight_that_is_not_finite_is_a_numerical_failure():
    with pytest.raises(NumericalError, match=r"fit: the weight holds NaN.*allowed: finite"):
        fit_parameters(torch.full((1, 1, 3, 3), float("nan")), "fracsrf")


def test_normal_equations_have_the_solution_of_a_library():
    change = torch.randn(5, 9, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right, damping = change.sum(1), torch.rand(5, 1, dtype=torch.float64)
    matrix = torch.einsum("pks,qks->spq", change, change) + torch.diag_embed(damping[:, 0])
    wanted = torch.linalg.solve(matrix, right.T).T
    torch.testing.assert_close(damped_solution(gram(change), right, damping), wanted)
    assert bool((damped_solution(gram(torch.zeros(3, 9, 2)), torch.zeros(3, 2), torch.zeros(3, 1)) == 0).all())
