"""Test that the layer before a residual addition compensates for the other operand, in every form of addition."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from basis.activations import fit_activations, output_errors
from basis.additions import Additions
from basis.sampling import SamplingConfig
from basis.swap import swap_convolutions
from tests.basis.test_activations import correlated
from tests.support.lockstep import in_shares


class Block(nn.Module):
    """A stem with a poor series, so that the shortcut drifts, and a block with a given addition."""

    def __init__(self, add, *, normalized=True, groups=1, bias=False):
        super().__init__()
        torch.manual_seed(1)
        self.add = add
        self.stem = nn.Conv2d(6, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 24, 3, padding=1)
        self.second = nn.Conv2d(24, 8, 3, padding=1, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(8) if normalized else nn.Identity()
        self.down, self.down_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 3)
        for module in (self.norm, self.down_norm):
            if normalized:
                nn.init.uniform_(module.weight, -2, 2)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.1, 2)
        self.eval()

    def joined(self, images):
        x = self.stem(images)
        return self.add(self, self.norm(self.second(torch.relu(self.first(x)))), x)

    def forward(self, images):
        return self.last(torch.relu(self.joined(images)))


PLAN = {"stem": (1, 1), "first": (1, 1), "second": (2, 2), "last": (2, 2)}


def augmented(out, x):
    out += x
    return out


def augmented_shortcut(out, x):
    x += out
    return x


FORMS = {
    "out + x": lambda net, out, x: out + x,
    "x + out": lambda net, out, x: x + out,
    "out += x": lambda net, out, x: augmented(out, x),
    "x += out": lambda net, out, x: augmented_shortcut(x=x, out=out),
    "out.add(x)": lambda net, out, x: out.add(x),
    "out.add_(x)": lambda net, out, x: out.add_(x),
    "torch.add": lambda net, out, x: torch.add(x, out),
    "torch.add by name": lambda net, out, x: torch.add(out, other=x),
    "downsampled after it": lambda net, out, x: augmented(out, net.down_norm(net.down(x))),
    "after dropout": lambda net, out, x: x + nn.functional.dropout(out, 0.5, training=False),
    "its shape is read": lambda net, out, x: x + out if out.shape[1] == 8 else x,
}

OTHERS = {
    "concatenated": lambda net, out, x: torch.cat([out, x], 1)[:, ::2],
    "scaled": lambda net, out, x: torch.add(x, out, alpha=2),
    "scaled before": lambda net, out, x: x + 2 * out,
    "changed in place": lambda net, out, x: x + nn.functional.relu(out, inplace=True),
    "filled in place": lambda net, out, x: x + (out.__setitem__((slice(None), 0), 0.0) or out),
    "read elsewhere": lambda net, out, x: torch.sigmoid(out) + out,
    "in a list read elsewhere": lambda net, out, x: torch.stack([out, x]).sum(0) + out,
    "a number": lambda net, out, x: out + 1,
    "a value per channel": lambda net, out, x: out + x.mean((2, 3), keepdim=True),
    "itself": lambda net, out, x: out + out,
    "normalized again": lambda net, out, x: net.norm(out) + x,
    "a conv that runs again": lambda net, out, x: out + x + 0 * net.second(x.repeat(1, 3, 1, 1)),
    "an input changed in place": lambda net, out, x: x + net.second(y := x.repeat(1, 3, 1, 1)) * (y.zero_() is y),
}


def fitted(original, images, plan=PLAN, **arguments):
    series = swap_convolutions(copy.deepcopy(original), plan, "cosine")
    return series, fit_activations(series, original, images, **arguments)


def uncorrected(original, images, plan=PLAN):
    return fitted(original, images, plan, correct_additions=False)


def assert_same(one, other, **tolerance):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], **tolerance or {"rtol": 0, "atol": 0})


@pytest.mark.parametrize(("normalized", "bias"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("add", FORMS.values(), ids=FORMS.keys())
def test_the_sum_comes_nearer_on_seen_and_on_other_images(add, normalized, bias):
    original, seen = Block(add, normalized=normalized, bias=bias), correlated(0)
    without, _ = uncorrected(original, seen)
    series, errors = fitted(original, seen)
    for images in (seen, correlated(1)):
        with torch.no_grad():
            target = original.joined(images)
            before, after = ((net.joined(images) - target).norm() for net in (without, series))
        assert after < 0.97 * before
    assert list(errors) == list(PLAN)
    assert errors == pytest.approx(output_errors(series, original, seen), rel=1e-4)  # what came after it saw the change
    assert not any(m._forward_pre_hooks or m._forward_hooks for net in (series, original) for m in net.modules())


def test_who_reads_the_output_again_after_the_addition_sees_the_new_values():
    original, images = Block(lambda net, out, x: (x + out) * out, bias=True), correlated(0)
    series, errors = fitted(original, images)
    assert errors == pytest.approx(output_errors(series, original, images), rel=1e-4)


@pytest.mark.parametrize("add", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_such_addition_changes_nothing(add):
    original, images = Block(add), correlated(0)
    without, before = uncorrected(original, images)
    series, errors = fitted(original, images)
    assert_same(series, without)
    assert errors == before


@pytest.mark.parametrize("groups", [1, 2])
def test_the_correction_is_numpys_least_squares_as_far_as_no_channel_gets_worse(groups):
    original, images = Block(FORMS["x + out"], groups=groups), correlated(0, count=16)
    series, _ = fitted(original, images, ridge=1e-12)
    mean = original.norm.running_mean.numpy().astype(float)
    first = swap_convolutions(copy.deepcopy(original), PLAN, "cosine").second.coefficients.detach().flatten(1).numpy()
    with torch.no_grad():
        h = torch.relu(series.first(series.stem(images)))
        gain = (original.norm.weight / (original.norm.running_var + original.norm.eps).sqrt()).double()
        own = original.second(torch.relu(original.first(original.stem(images)))).double()
        lack = (original.stem(images) - series.stem(images)).double() / gain[:, None, None]
    own, lack = (values.permute(0, 2, 3, 1).reshape(-1, 8).numpy() for values in (own, lack))
    padded = np.pad(h.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    terms = np.array([[1, 1], [1, 0], [1, -1]]) / np.sqrt([3, 2])  # cosines on 3 taps, orthonormal
    z = np.einsum("nchwij,ia,jb->nhwcab", windows, terms, terms).reshape(len(own), groups, -1)
    shares = []
    for channel in range(8):
        features = np.concatenate([z[:, channel * groups // 8], np.ones((len(z), 1))], axis=1)
        y = own[:, channel]
        nearest, moved = (np.linalg.lstsq(features, t, rcond=None)[0] for t in (y, y + lack[:, channel]))
        came = np.square(features[:, :-1] @ first[channel] - y).sum()
        low, high = 0.0, 2.0
        for _ in range(40):
            middle = (low + high) / 2
            worse = np.square(features @ (nearest + middle * (moved - nearest)) - y).sum() > came
            low, high = (low, middle) if worse else (middle, high)
        shares.append(min(low, 1.0))
        constant = mean[channel] - series.norm.running_mean[channel].item()
        found = [*series.second.coefficients[channel].detach().flatten().tolist(), constant]
        np.testing.assert_allclose(found, nearest + shares[-1] * (moved - nearest), rtol=1e-3, atol=1e-3)
    assert min(shares) < 0.5 < max(shares)


@pytest.mark.parametrize(("erased", "gains"), [([2, 3], [0.0, 1e-6]), (list(range(8)), [0.0] * 8)])
def test_a_channel_that_the_normalization_erases_stays_as_it_was(erased, gains):
    original, images = Block(FORMS["x + out"]), correlated(0)
    with torch.no_grad():
        original.norm.weight[erased] = torch.tensor(gains)
    without, _ = uncorrected(original, images)
    series, _ = fitted(original, images)
    changed = (series.second.coefficients != without.second.coefficients).flatten(1).any(1)
    assert changed.tolist() == [channel not in erased for channel in range(8)]


def test_a_normalization_without_weights_and_one_without_statistics():
    weightless, unmeasured = nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, track_running_stats=False)
    for norm, corrected in ((weightless, True), (unmeasured, False)):
        original, images = Block(FORMS["x + out"]), correlated(0)
        original.norm = norm.eval()
        without, _ = uncorrected(original, images)
        series, _ = fitted(original, images)
        assert torch.equal(series.second.coefficients, without.second.coefficients) != corrected


def test_where_nothing_has_drifted_a_layer_of_full_order_stays_as_it_was():
    original, images = Block(FORMS["x + out"]), correlated(0)
    plan = {"second": (3, 3)}
    assert_same(fitted(original, images, plan)[0], uncorrected(original, images, plan)[0])


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("stem", [(1, 1), (2, 2)])
@pytest.mark.parametrize("order", [(1, 1), (2, 2), (3, 3)])
def test_no_channel_becomes_worse_than_it_was_with_the_coefficients_that_it_came_with(order, stem, normalized):
    original, images = Block(FORMS["x + out"], normalized=normalized), correlated(0)
    series, errors = fitted(original, images, PLAN | {"second": order, "stem": stem})
    first = swap_convolutions(copy.deepcopy(original), {"second": order}, "cosine").second
    with torch.no_grad():
        wanted = original.second(torch.relu(original.first(original.stem(images))))
        x = torch.relu(series.first(series.stem(images)))
        shift = (original.norm.running_mean - series.norm.running_mean)[:, None, None] if normalized else 0
        came, now = ((out - wanted).square().sum((0, 2, 3)) for out in (first(x), series.second(x) + shift))
    assert bool((now <= came * (1 + 1e-5)).all())
    assert errors["second"] == pytest.approx(float((now.sum() / wanted.square().sum()).sqrt()), rel=1e-4)


def test_a_layer_that_the_compressed_network_keeps_is_no_operand():
    original, images = Block(FORMS["x + out"]), correlated(0)
    plan = {name: order for name, order in PLAN.items() if name != "second"}
    assert_same(fitted(original, images, plan)[0], uncorrected(original, images, plan)[0])


def test_a_compressed_network_that_does_not_add_is_fitted_as_before():
    original, images = Block(FORMS["x + out"]), correlated(0)
    found = []
    for add in (OTHERS["scaled before"], FORMS["x + out"]):
        series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
        series.add = add
        fit_activations(series, original, images)
        found.append(series.second.coefficients)
    without, _ = uncorrected(original, images)
    assert torch.equal(found[0], without.second.coefficients)
    assert not torch.equal(found[1], found[0])


@pytest.mark.parametrize("limit", [400, 2**16], ids=["a sample", "all positions"])
def test_shards_of_the_images_give_what_one_process_gives(limit):
    sampling = SamplingConfig(positions=limit)
    original, images = Block(FORMS["downsampled after it"]), correlated(0, count=31)
    plan = dict.fromkeys(PLAN, (2, 2))  # what the images determine well
    alone, expected = fitted(original, images, plan, sampling=sampling)

    def work(mine, shard):
        return fitted(copy.deepcopy(original), mine, plan, shard=shard, sampling=sampling)

    shares = in_shares(3, images, work)
    for series, errors in shares:
        assert errors == pytest.approx(expected, rel=1e-4)
        assert_same(series, alone, rtol=1e-4, atol=1e-4)


def test_measuring_changes_nothing():
    original, images = Block(FORMS["out += x"]), correlated(0)
    series = swap_convolutions(copy.deepcopy(original), PLAN, "cosine")
    kept = copy.deepcopy(series)
    output_errors(series, original, images)
    assert_same(series, kept)


def test_images_of_inference_mode_are_fitted_alike():
    original = Block(FORMS["x + out"])
    with torch.inference_mode():
        images = correlated(0)
    assert_same(fitted(original, images)[0], fitted(original, correlated(0))[0])
    with torch.inference_mode():  # a change in place could not be noticed, so no output is watched
        series, _ = fitted(original, images)
    assert_same(series, uncorrected(original, correlated(0))[0])


def reported_additions(model, layers, images):
    """The names of the layers whose additions an observer reports in one forward pass."""
    names = []
    observer = Additions(lambda addition: names.append(addition.name))
    for name in layers:
        model.get_submodule(name).register_forward_hook(lambda m, x, y, name=name: observer.watch(name, y))
    with torch.no_grad(), observer:
        model(images)
    return names


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_torchvisions_blocks(name):
    """Of these, only the ResNet adds to the outputs of its 3x3 convolutions."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    original = torchvision.models.get_model(name, weights=None, num_classes=10).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spatial = [n for n, m in original.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    expected = [n for n in spatial if name == "resnet18" and n.endswith("conv2")]
    assert reported_additions(copy.deepcopy(original), spatial, images) == expected
    plan = dict.fromkeys(spatial, (1, 1))
    (series, errors), (without, before) = fitted(original, images, plan), uncorrected(original, images, plan)
    if expected:  # the shortcut of the first block has not drifted; the second correction changes all layers after it
        found = [{n: net.get_submodule(n).coefficients for n in spatial} for net in (series, without)]
        changed = [n for n in spatial if not torch.equal(found[0][n], found[1][n])]
        assert changed == spatial[spatial.index(expected[1]) :]
        assert list(errors) == list(before) == spatial
    else:
        assert_same(series, without)
        assert errors == before
