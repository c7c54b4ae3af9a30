"""Steps in the space of filters, and parameters that stay in their ranges."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from basis.parametric import gradients
from basis.parametric.conv import ParametricConv2d
from basis.parametric.evaluation import kernels_and_jacobian, limits
from basis.parametric.families import FAMILIES
from basis.parametric.gradients import DAMPING, filter_space_gradients


def layer(family: str) -> ParametricConv2d:
    torch.manual_seed(0)
    return ParametricConv2d(nn.Conv2d(4, 5, 3, bias=False), family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_solves_the_damped_normal_equations(family):
    conv = layer(family).double()
    _, change = kernels_and_jacobian(conv.coefficients.detach().reshape(20, -1).T, family, (3, 3))
    tangents = change.flatten(1, 2).permute(2, 0, 1)  # (S, P, 9)
    gradient = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    with filter_space_gradients(nn.Sequential(conv)):
        (conv.filters() * gradient).sum().backward()
    matrix = tangents @ tangents.mT
    matrix += DAMPING * torch.diag_embed(matrix.diagonal(dim1=1, dim2=2).mean(0))
    wanted = (1 + DAMPING) * torch.linalg.solve(matrix, tangents @ gradient.reshape(20, 9, 1))
    torch.testing.assert_close(conv.coefficients.grad.reshape(20, -1), wanted[..., 0])


def test_without_damping_a_step_moves_the_kernel_by_the_projected_gradient(monkeypatch):
    monkeypatch.setattr(gradients, "DAMPING", 1e-9)
    conv = layer("fracsrf").double()
    gradient = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    _, change = kernels_and_jacobian(conv.coefficients.detach().reshape(20, -1).T, "fracsrf", (3, 3))
    tangents = change.flatten(1, 2).permute(2, 1, 0)  # (S, 9, P)
    with filter_space_gradients(nn.Sequential(conv)):
        (conv.filters() * gradient).sum().backward()
    moved = (tangents @ conv.coefficients.grad.reshape(20, -1, 1))[..., 0]
    roots = torch.linalg.qr(tangents)[0]
    projected = (roots @ (roots.mT @ gradient.reshape(20, 9, 1)))[..., 0]
    torch.testing.assert_close(moved, projected, rtol=1e-3, atol=1e-3)


def test_a_slice_of_amplitude_0_has_a_finite_step():
    conv = layer("fracsrf")
    conv.coefficients.data[0, 0] = 0
    with filter_space_gradients(conv):
        conv(torch.randn(2, 4, 6, 6)).square().sum().backward()
    assert bool(torch.isfinite(conv.coefficients.grad).all())
    assert bool((conv.coefficients.grad[0, 0, 0, 1:] == 0).all())
    assert conv.coefficients.grad[0, 0, 0, 0] != 0


@pytest.mark.parametrize("parametrized", [False, True])
def test_parameters_return_to_their_ranges(parametrized):
    conv = layer("fractional")
    master = conv.coefficients
    if parametrized:
        parametrize.register_parametrization(conv, "coefficients", nn.Identity())
    master.data += 100
    with filter_space_gradients(conv):
        conv(torch.zeros(1, 4, 6, 6))
    _, largest = limits("fractional")
    assert bool((master <= largest.float()).all())
    assert bool((master[..., 1:] == largest[1:].float()).all())
    assert bool((master[..., 0] > 90).all())  # an amplitude has no limits
    conv.coefficients.sum().backward()
    torch.testing.assert_close(master.grad, torch.ones_like(master))  # outside the context, gradients are plain
