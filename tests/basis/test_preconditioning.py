"""Test the effect of preconditioned steps on filters and outputs, in every basis, memory format and layer class."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from basis.conv import SeriesConv2d
from basis.families import BASES
from basis.preconditioning import INPUT_DAMPING, inverse_input_covariance, preconditioned_gradients
from basis.shard import CalibrationShard


def moved_filters(conv, wanted, lr=0.1):
    """The filters' change by one gradient step on the coefficients, whose loss has the gradient ``wanted``."""
    before = conv.filters().detach().clone()
    model = nn.Sequential(conv)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
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
    torch.testing.assert_close(moved_filters(conv, wanted).double(), expected, atol=1e-4, rtol=1e-4)


def test_high_orders_do_not_magnify_steps():
    torch.manual_seed(0)
    conv = SeriesConv2d(nn.Conv2d(2, 2, 11), "cosine", (11, 11))
    wanted = torch.randn(2, 2, 11, 11)
    assert float(moved_filters(conv, wanted).norm()) < 1.01 * float(wanted.norm())


def network(conv):
    return nn.Sequential(OrderedDict(conv=conv))


def stored(conv):
    return conv.coefficients if isinstance(conv, SeriesConv2d) else conv.weight


def patches_of(conv, x):
    """Return the input patches of a zero-padded convolution by torch's unfold: (groups, rows, F)."""
    rows = functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).mT
    rows = rows.reshape(-1, conv.groups, conv.in_channels // conv.groups, 9)
    filtered = rows @ conv.operator if isinstance(conv, SeriesConv2d) else rows
    return filtered.flatten(2).transpose(0, 1).double().numpy()


def step_along(conv, gradient, inverses, lr=1.0):
    """The change of what a convolution stores, by one step along a gradient."""
    before = stored(conv).detach().clone()
    with preconditioned_gradients(network(conv), inverses):
        (stored(conv) * gradient).sum().backward()
    torch.optim.SGD([stored(conv)], lr).step()
    return stored(conv).detach() - before


def test_parametrized_coefficients_step_the_same_and_the_context_ends():
    torch.manual_seed(0)
    plain = SeriesConv2d(nn.Conv2d(2, 3, 3), "chebyshev", (2, 2))
    computed = copy.deepcopy(plain)
    parametrize.register_parametrization(computed, "coefficients", nn.Identity())
    inverses = inverse_input_covariance(network(plain), network(nn.Conv2d(2, 3, 3)), torch.rand(2, 2, 6, 6))
    gradient = torch.randn(3, 2, 2, 2)
    hooked, master = copy.deepcopy(plain), computed.parametrizations.coefficients.original
    with preconditioned_gradients(network(hooked), inverses), preconditioned_gradients(network(computed), inverses):
        for conv in (hooked, computed):
            (conv.coefficients * gradient).sum().backward()
    assert not torch.allclose(master.grad, gradient)
    torch.testing.assert_close(master.grad, hooked.coefficients.grad)
    hooked.coefficients.grad = None
    (hooked.coefficients * gradient).sum().backward()
    torch.testing.assert_close(hooked.coefficients.grad, gradient)


def test_frozen_coefficients_are_left_alone():
    conv = SeriesConv2d(nn.Conv2d(2, 3, 3).requires_grad_(False), "cosine", (2, 2))
    with preconditioned_gradients(network(conv), {"conv": torch.eye(8)[None]}):
        assert not conv.filters().requires_grad


LAYERS = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": 2},
    "grouped": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 6, "padding": 1},
}


@pytest.mark.parametrize("layer", list(LAYERS))
@pytest.mark.parametrize("basis", [None, *BASES])
@pytest.mark.parametrize("channels_last", [False, True])
def test_steps_are_divided_by_the_second_moments_of_the_inputs(layer, basis, channels_last):
    torch.manual_seed(0)
    original = nn.Conv2d(6, 6, 3, **LAYERS[layer])
    conv = copy.deepcopy(original) if basis is None else SeriesConv2d(original, basis, (2, 2))
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    x, gradient = torch.randn(4, 6, 9, 9) + 0.5, torch.randn(stored(conv).shape)
    moved = step_along(conv, gradient, inverse_input_covariance(network(conv), network(original), x))
    z, energy = patches_of(conv, x), x.double().square().unflatten(1, (conv.groups, -1)).mean((0, 2, 3, 4)).numpy()
    taps = np.eye(9) if basis is None else conv.operator.double().numpy()
    lengths = np.kron(np.eye(6 // conv.groups), taps.T @ taps)
    energy = energy[:, None, None]
    metric = np.einsum("gnf,gnh->gfh", z, z) / z.shape[1] + INPUT_DAMPING * energy * lengths
    rows = gradient.double().reshape(len(z), -1, z.shape[2]).numpy()
    expected = -(1 + INPUT_DAMPING) * energy * rows @ np.linalg.inv(metric)
    np.testing.assert_allclose(moved.numpy(), expected.reshape(moved.shape), rtol=2e-3, atol=2e-3)


def test_without_damping_one_step_is_the_least_squares_fit():
    torch.manual_seed(0)
    original = nn.Conv2d(3, 4, 3, bias=False)
    conv = SeriesConv2d(original, "cosine", (2, 2))
    x = torch.rand(8, 3, 10, 10)
    wanted = original(x).detach()
    inverses = inverse_input_covariance(network(conv), network(original), x, damping=0.0)
    with preconditioned_gradients(network(conv), inverses):
        (0.5 * (conv(x) - wanted).square().sum(1).mean()).backward()
    torch.optim.SGD(conv.parameters(), 1 / float(x.square().mean())).step()
    z = patches_of(conv, x)[0]
    best, *_ = np.linalg.lstsq(z, wanted.transpose(0, 1).flatten(1).T.double().numpy())
    np.testing.assert_allclose(conv.coefficients.detach().flatten(1).numpy(), best.T, atol=1e-4)


def test_with_much_damping_steps_are_those_in_the_space_of_filters():
    torch.manual_seed(0)
    conv = SeriesConv2d(nn.Conv2d(4, 6, 3), "chebyshev", (2, 3))
    gradient, x = torch.randn(6, 4, 2, 3), torch.rand(2, 4, 8, 8)
    inverses = inverse_input_covariance(network(conv), network(nn.Conv2d(4, 6, 3)), x, damping=1e6)
    known, unknown = (step_along(copy.deepcopy(conv), gradient, each) for each in (inverses, {}))
    torch.testing.assert_close(known, unknown, rtol=1e-3, atol=1e-3)


def test_layers_without_an_inverse_keep_their_gradient():
    gradient = torch.randn(6, 4, 3, 3)
    torch.testing.assert_close(step_along(nn.Conv2d(4, 6, 3), gradient, {}), -gradient)


def test_images_that_two_processes_share_give_the_same():
    torch.manual_seed(0)
    original = network(nn.Conv2d(4, 4, 3, padding=1, groups=2))
    x = torch.randn(6, 4, 8, 8)
    sent = {(0, 6): [], (0, 4): [], (4, 6): []}  # what one process, and each of two, give to the sums
    for (first, stop), to in sent.items():
        shard = CalibrationShard(first, stop - first, 6, lambda tensor, to=to: to.append(tensor.clone()) or tensor)
        inverse_input_covariance(original, original, x[first:stop], shard=shard)
    for whole, one, other in zip(*sent.values(), strict=True):
        torch.testing.assert_close(one + other, whole, rtol=1e-5, atol=1e-4)


def test_a_matrix_that_is_not_positive_definite_by_rounding_is_steadied():
    torch.manual_seed(0)
    original = nn.Conv2d(16, 2, 11)
    conv = SeriesConv2d(original, "cosine", (11, 11))
    # All inputs alike: of 1,936 directions one has all the energy, and float32 is too coarse for the others.
    inverse = inverse_input_covariance(network(conv), network(original), torch.ones(4, 16, 12, 12))["conv"]
    most = (1 + INPUT_DAMPING) / INPUT_DAMPING
    assert float(torch.linalg.matrix_norm(inverse[0].double(), 2)) < 1.01 * most


def test_a_group_without_inputs_steps_in_the_space_of_filters():
    torch.manual_seed(0)
    conv = SeriesConv2d(nn.Conv2d(2, 2, 3, groups=2), "cosine", (2, 2))
    x = torch.rand(3, 2, 8, 8) * torch.tensor([1.0, 0.0])[:, None, None]
    gradient = torch.randn(2, 1, 2, 2)
    known = step_along(copy.deepcopy(conv), gradient, inverse_input_covariance(network(conv), network(conv), x))
    unknown = step_along(conv, gradient, {})
    torch.testing.assert_close(known[1], unknown[1])
    assert not torch.allclose(known[0], unknown[0], rtol=0.1)


def test_a_kernel_of_two_layers_steps_once():
    conv, other = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    other.weight = conv.weight
    net, x = nn.Sequential(conv, other), torch.rand(2, 3, 8, 8)
    gradient = torch.randn(3, 3, 3, 3)
    before = conv.weight.detach().clone()
    with preconditioned_gradients(net, inverse_input_covariance(net, net, x)):
        (conv.weight * gradient).sum().backward()
    torch.optim.SGD(net.parameters(), 1.0).step()
    alone = copy.deepcopy(conv)
    alone.weight.data.copy_(before)
    expected = step_along(alone, gradient, inverse_input_covariance(network(conv), network(conv), x))
    torch.testing.assert_close(conv.weight.detach() - before, expected)


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_kernels_of_other_parametrizations_still_train(parametrization):
    conv = parametrization(nn.Conv2d(3, 3, 3))
    state = copy.deepcopy(conv.state_dict())
    inverses = inverse_input_covariance(network(conv), network(nn.Conv2d(3, 3, 3)), torch.rand(2, 3, 8, 8))
    for name, value in conv.state_dict().items():
        assert torch.equal(value, state[name]), "measuring evaluates no parametrization"
    with preconditioned_gradients(network(conv), inverses):
        conv(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in conv.parameters())


@pytest.mark.parametrize("why", ["infinite", "unused", "large", "pointwise", "frozen"])
def test_layers_of_which_nothing_can_be_known_are_left_out(why):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1 if why == "pointwise" else 3)

        def forward(self, x):
            x = self.first(x) * (torch.inf if why == "infinite" else 1)
            return x if why == "unused" else self.second(x)

    limit = {"max_features": 30} if why == "large" else {}
    net = Net()
    net.second.requires_grad_(why != "frozen")
    assert list(inverse_input_covariance(net, net, torch.randn(2, 3, 8, 8), **limit)) == ["first"]


def test_the_original_is_measured_in_eval_mode_and_keeps_its_modes():
    torch.manual_seed(0)
    original = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 3))).train()
    original.conv.eval()
    state, x = copy.deepcopy(original.state_dict()), torch.randn(4, 3, 8, 8) * 3
    found = inverse_input_covariance(original, original, x)["conv"]
    assert [module.training for module in original.modules()] == [True, True, False]
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())
    assert torch.equal(found, inverse_input_covariance(original.eval(), original, x)["conv"])


def test_a_forward_that_enables_gradients_leaves_no_graph_in_the_inverses():
    class Enabling(nn.Sequential):
        def forward(self, x):
            with torch.enable_grad():
                return super().forward(x)

    network = Enabling(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    found = inverse_input_covariance(network, network, torch.randn(2, 3, 8, 8))
    assert [inverse.requires_grad for inverse in found.values()] == [False, False]
