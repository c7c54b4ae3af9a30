"""Steps on coefficients: what they do to the filters, in every basis, layout and parametrization."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d
from basis.preconditioning import filter_space_gradients
from basis.series import BASES


def moved_filters(conv, wanted, lr=0.1, precondition=True):
    """The filters' change by one gradient step on the coefficients, whose loss has the gradient ``wanted``."""
    before = conv.filters().detach().clone()
    model = nn.Sequential(conv)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    if precondition:
        with filter_space_gradients(model):
            (conv.filters() * wanted).sum().backward()
    else:
        (conv.filters() * wanted).sum().backward()
    optimizer.step()
    return (conv.filters().detach() - before) / -lr


@pytest.mark.parametrize("basis", list(BASES))
@pytest.mark.parametrize(("kernel", "order"), [((3, 3), (2, 2)), ((3, 3), (3, 3)), ((5, 5), (3, 2)), ((3, 7), (2, 4))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_filters_move_by_their_own_gradient_projected_on_the_series(basis, kernel, order, channels_last):
    torch.manual_seed(0)
    conv = SeriesConv2d(nn.Conv2d(4, 6, kernel), basis, order)
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    wanted = torch.randn(6, 4, *kernel)
    operator = conv.operator.double()
    projection = operator @ torch.linalg.pinv(operator)
    expected = (wanted.double().flatten(2) @ projection.T).reshape(wanted.shape)
    torch.testing.assert_close(moved_filters(conv, wanted).double(), expected, atol=5e-3, rtol=5e-3)


def test_without_it_the_constant_runs_ahead():
    torch.manual_seed(0)
    conv = SeriesConv2d(nn.Conv2d(1, 1, 3), "cosine", (2, 2))
    wanted = torch.ones(1, 1, 3, 3)
    plain = moved_filters(copy.deepcopy(conv), wanted, precondition=False)
    torch.testing.assert_close(plain, 9 * wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved_filters(conv, wanted), wanted, rtol=1e-3, atol=1e-3)


def test_nearly_dependent_functions_do_not_magnify_rounding():
    torch.manual_seed(0)
    conv = SeriesConv2d(nn.Conv2d(2, 2, 11), "cosine", (11, 11))
    wanted = torch.randn(2, 2, 11, 11)
    assert float(moved_filters(conv, wanted).norm()) < 1.01 * float(wanted.norm())


def test_parametrized_coefficients_step_the_same_and_the_context_ends():
    torch.manual_seed(0)
    plain = SeriesConv2d(nn.Conv2d(2, 3, 3), "chebyshev", (2, 2))
    computed = copy.deepcopy(plain)
    parametrize.register_parametrization(computed, "coefficients", nn.Identity())
    wanted = torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(moved_filters(computed, wanted), moved_filters(copy.deepcopy(plain), wanted))
    after = moved_filters(plain, wanted), moved_filters(plain, wanted, precondition=False)
    assert not torch.allclose(*after), "outside the context the gradient is the coefficients' own"


def test_frozen_coefficients_are_left_alone():
    conv = SeriesConv2d(nn.Conv2d(2, 3, 3).requires_grad_(False), "cosine", (2, 2))
    with filter_space_gradients(nn.Sequential(conv)):
        assert not conv.filters().requires_grad
