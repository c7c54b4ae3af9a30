"""Compare the fit to outputs with numpy's least squares and with the fit to weights, on every kind of layer."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from basis.activations import fit_activations, output_errors
from basis.conv import SeriesConv2d
from basis.sampling import SamplingConfig
from basis.swap import swap_convolutions


def correlated(seed, count=32, channels=6, size=12):
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(noise, 5, stride=1, padding=2) * 5


LAYERS = {
    "plain": lambda: nn.Conv2d(6, 8, 3, padding=1),
    "5x5 without bias": lambda: nn.Conv2d(6, 8, 5, padding=2, bias=False),
    "7x7 strided": lambda: nn.Conv2d(6, 4, 7, stride=2, padding=3),
    "depthwise": lambda: nn.Conv2d(6, 12, 3, padding="same", groups=6),
    "grouped and dilated": lambda: nn.Conv2d(6, 4, 3, padding="same", dilation=2, groups=2, padding_mode="reflect"),
    "oblong, circular": lambda: nn.Conv2d(6, 4, (3, 5), padding=(1, 2), padding_mode="circular"),
}


@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_beats_the_weights_fit_on_seen_and_on_other_images(make, basis):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    series = swap_convolutions(copy.deepcopy(model), {"0": (2, 2)}, basis)
    seen, others = correlated(0), correlated(1)
    before = [output_errors(series, model, images)["0"] for images in (seen, others)]
    reported = fit_activations(series, model, seen)["0"]
    after = [output_errors(series, model, images)["0"] for images in (seen, others)]
    assert reported == pytest.approx(after[0], rel=1e-5)
    assert after[0] < 0.995 * before[0]
    assert after[1] < before[1]


def test_the_error_is_that_of_the_outputs():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1))
    series = swap_convolutions(copy.deepcopy(model), {"0": (2, 2)}, "cosine")
    images = correlated(0)
    with torch.no_grad():
        expected = (series(images) - model(images)).norm() / model(images).norm()
    assert output_errors(series, model, images)["0"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_the_solution_is_numpys_least_squares(bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, bias=bias).double()
    series = swap_convolutions(nn.Sequential(copy.deepcopy(conv)), {"0": (2, 2)}, "chebyshev")
    images = correlated(0, count=8, channels=2).double()
    fit_activations(series.float(), nn.Sequential(conv).float(), images.float(), ridge=1e-12)
    with torch.no_grad():
        y = conv(images.float()).permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(images.numpy(), (3, 3), axis=(2, 3))
    axis = np.linspace(-1, 1, 3)
    terms = np.stack([np.ones(3) / 3**0.5, axis / 2**0.5], axis=1)
    z = np.einsum("nchwij,ia,jb->nhwcab", windows, terms, terms).reshape(len(y), -1)
    z = np.concatenate([z, np.ones((len(z), 1))], axis=1) if bias else z
    solution = np.linalg.lstsq(z, y, rcond=None)[0].T
    layer = series[0]
    np.testing.assert_allclose(layer.coefficients.detach().flatten(1).numpy(), solution[:, :8], rtol=1e-3, atol=1e-4)
    if bias:
        np.testing.assert_allclose(layer.bias.detach().numpy(), solution[:, 8], rtol=1e-3, atol=1e-4)


def residual_network():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.second = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return x + self.second(torch.relu(self.norm(self.first(x))))

    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(6, 8, 5, padding=2), nn.ReLU(), Block(), Block()).eval()


PLAN = {"0": (3, 3), "2.first": (2, 2), "2.second": (2, 2), "3.first": (2, 2), "3.second": (2, 2)}


def test_a_network_comes_nearer_to_the_original_and_its_modes_and_hooks_are_as_before():
    original = residual_network()
    series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
    series[2].train()
    others = correlated(1)
    with torch.no_grad():
        target = original(others)
        before = (copy.deepcopy(series).eval()(others) - target).norm()
        weights = copy.deepcopy(original.state_dict())
        errors = fit_activations(series, original, correlated(0))
        after = (copy.deepcopy(series).eval()(others) - target).norm()
    assert list(errors) == list(PLAN)
    assert after < before
    assert series[2].training
    assert not series[3].training
    assert all(torch.equal(value, weights[name]) for name, value in original.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for net in (series, original) for m in net.modules())


def test_a_later_layer_makes_up_for_an_earlier_one():
    """The second layer is fitted on the compressed network's inputs, not on the original's."""
    original = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)).eval()
    both = swap_convolutions(copy.deepcopy(original), {"0": (1, 1), "1": (3, 3)}, "cosine")
    exact = copy.deepcopy(both[1])
    before = output_errors(both, original, correlated(0))["1"]
    after = fit_activations(both, original, correlated(0))["1"]
    assert not torch.allclose(both[1].coefficients, exact.coefficients, atol=1e-3)
    assert after < before


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_normalization_takes_up_the_constant_that_a_layer_without_bias_cannot(kind):
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), kind(8), nn.ReLU()).eval()
    series = swap_convolutions(copy.deepcopy(original), {"0": (1, 1)}, "cosine")
    images = correlated(0) + 2
    fit_activations(series, original, images)
    with torch.no_grad():
        error = series[:2](images) - original[:2](images)
    assert not torch.equal(series[1].running_mean, original[1].running_mean)
    torch.testing.assert_close(error.mean((0, 2, 3)), torch.zeros(8), atol=0.01, rtol=0)


def test_a_normalization_that_also_reads_something_else_keeps_its_mean():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)

        def forward(self, x):
            return self.norm(self.norm(self.conv(x)))

    original = Net().eval()
    series = swap_convolutions(copy.deepcopy(original), {"conv": (2, 2)}, "cosine")
    fit_activations(series, original, correlated(0))
    assert torch.equal(series.norm.running_mean, original.norm.running_mean)


READERS = {
    "a shortcut": lambda net, y: torch.relu(net.norm(y)) + y,
    "a shortcut of a sum in place": lambda net, y: net.norm(y.__iadd__(net.down(y.detach()))) + y,
    "a second normalization": lambda net, y: torch.relu(net.norm(y)) + torch.relu(net.other(y)),
    "a gate": lambda net, y: net.norm(y) * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    "an activation in place before it": lambda net, y: net.norm(torch.relu_(y)),
    "a sum in place before it": lambda net, y: net.norm(y.add_(1)),
    "whoever takes it from the outputs": lambda net, y: {"logits": net.norm(y), "maps": [y]},
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_a_normalization_keeps_its_mean_if_others_read_or_change_the_output_of_the_layer(read):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.down = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 1)
            self.norm, self.other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

        def forward(self, x):
            return read(self, self.conv(x))

    original, images = Net().eval(), correlated(0) + 2
    series = swap_convolutions(copy.deepcopy(original), {"conv": (1, 1)}, "cosine")
    reported = fit_activations(series, original, images)["conv"]
    with torch.no_grad():
        expected = (series.conv(images) - original.conv(images)).norm() / original.conv(images).norm()
    for norm in ("norm", "other"):
        assert torch.equal(getattr(series, norm).running_mean, getattr(original, norm).running_mean)
    assert reported == pytest.approx(float(expected), rel=1e-4)


def test_a_normalization_takes_up_the_constant_if_others_only_ask_for_the_shape_of_the_output():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6)

        def forward(self, x):
            y = nn.functional.dropout(self.conv(x), 0.5, training=False)
            return self.norm(y) * y.shape[1] if y.dim() == 4 else y

    original = Net().eval()
    series = swap_convolutions(copy.deepcopy(original), {"conv": (1, 1)}, "cosine")
    fit_activations(series, original, correlated(0) + 2)
    assert not torch.equal(series.norm.running_mean, original.norm.running_mean)


def test_normalizations_take_up_the_constants_of_layers_that_all_run_before_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, bias=False) for _ in range(3))
            self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))

        def forward(self, x):
            outputs = [conv(x) for conv in self.convs]
            return sum(torch.relu(norm(y)) for norm, y in zip(self.norms, outputs, strict=True))

    original = Net().eval()
    series = swap_convolutions(copy.deepcopy(original), {f"convs.{i}": (1, 1) for i in range(3)}, "cosine")
    fit_activations(series, original, correlated(0) + 2)
    for before, after in zip(original.norms, series.norms, strict=True):
        assert not torch.equal(before.running_mean, after.running_mean)


def test_inputs_that_are_always_zero_leave_the_coefficients_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False))
    series = swap_convolutions(copy.deepcopy(model), {"0": (2, 2)}, "cosine")
    before = series[0].coefficients.detach().clone()
    assert fit_activations(series, model, torch.zeros(4, 3, 8, 8)) == {"0": 0.0}
    assert torch.equal(series[0].coefficients, before)


def test_duplicate_channels_make_a_singular_gram_matrix_and_still_a_good_fit():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1))
    series = swap_convolutions(copy.deepcopy(model), {"0": (2, 2)}, "cosine")
    images = correlated(0, channels=1).expand(-1, 6, -1, -1).contiguous()
    before = output_errors(series, model, images)["0"]
    assert fit_activations(series, model, images)["0"] < before
    assert bool(torch.isfinite(series[0].coefficients).all())


def test_a_layer_that_never_runs_is_left_out_and_a_shared_one_is_fitted_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.unused = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3)

        def forward(self, x):
            return self.shared(torch.relu(self.shared(x)))

    original = Net().eval()
    series = swap_convolutions(copy.deepcopy(original), {"shared": (2, 2), "unused": (2, 2)}, "cosine")
    before = series.unused.coefficients.detach().clone()
    assert list(fit_activations(series, original, correlated(0))) == ["shared"]
    assert torch.equal(series.unused.coefficients, before)


def test_one_seed_gives_one_fit():
    original, found = residual_network(), []
    for seed in (1, 1, 2):
        series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
        fit_activations(series, original, correlated(0), seed=seed, sampling=SamplingConfig(positions=200))
        assert isinstance(series[0], SeriesConv2d)
        found.append(series[0].coefficients.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
