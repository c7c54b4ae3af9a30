"""The trial step before a run: bf16, batches of one image, and outputs without gradients."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from pipeline.errors import OptionsError
from pipeline.runtime.device import make_accelerator
from pipeline.training.trial import (
    check_gradients,
    check_rounded_training,
    check_single_image,
    check_trainable,
    settle_precision,
)
from tests.support.networks import tiny_network


class OnlyFloat(nn.Module):
    """A network with an operator that has no bf16, in forward or in backward."""

    def __init__(self, where):
        super().__init__()
        self.layer, self.where = nn.Conv2d(3, 4, 3), where

    def forward(self, x):
        x = self.layer(x)
        if self.where == "forward" and x.dtype == torch.bfloat16:
            raise RuntimeError("\"im2col\" not implemented for 'BFloat16'")
        if self.where == "backward":
            x.register_hook(self.refuse)
        return x.mean((2, 3))

    def refuse(self, gradient):
        if gradient.dtype == torch.bfloat16:
            raise NotImplementedError("no gradient in 'BFloat16'")


def accelerator(precision="bf16"):
    return make_accelerator("cpu", precision)


IMAGES = torch.rand(2, 3, 12, 12)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_auto_falls_back_to_float32(where):
    place = accelerator()
    settle_precision(place, OnlyFloat(where), IMAGES, "auto")
    assert place.precision == "no"
    assert "BFloat16" in place.fallback


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_bf16_is_refused(where):
    with pytest.raises(OptionsError, match=r"--precision.*bf16.*BFloat16.*fp32"):
        settle_precision(accelerator(), OnlyFloat(where), IMAGES, "bf16")


@pytest.mark.parametrize("wanted", ["auto", "bf16"])
def test_a_network_that_can_stays_in_bf16(wanted):
    place, network = accelerator(), tiny_network()
    state = torch.get_rng_state()
    settle_precision(place, network, IMAGES, wanted)
    assert (place.precision, place.fallback) == ("bf16", "")
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_of_another_kind_is_not_of_the_precision():
    place = accelerator()
    settle_precision(place, nn.Linear(5, 5), IMAGES, "bf16")
    assert place.precision == "bf16"


def test_float32_is_not_tried():
    place = accelerator("fp32")
    settle_precision(place, OnlyFloat("forward"), IMAGES, "fp32")
    assert (place.precision, place.fallback) == ("no", "")


def test_training_runs_in_the_precision():
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with accelerator(precision).autocast():
            assert tiny_network()(IMAGES).dtype == expected


def test_a_value_per_channel_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 12), nn.BatchNorm2d(4), nn.Flatten())
    with pytest.raises(OptionsError, match=r"--batch-size: got 1.*batch normalization.*2 or more"):
        check_single_image(network, IMAGES[:1], "--batch-size: got 1")


@pytest.mark.parametrize("make", [tiny_network, lambda: nn.Conv2d(3, 4, 12)], ids=["larger maps", "other layers"])
def test_larger_maps_and_other_layers_are_not_refused(make):
    network, sizes = make(), []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    check_single_image(network, IMAGES[:1], "--batch-size: got 1")
    assert set(sizes) == {1}


class WithoutGradients(nn.Module):
    """A network made for inference, up to some place in it."""

    def __init__(self, where):
        super().__init__()
        self.conv, self.head, self.where = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), where

    def forward(self, x):
        with torch.set_grad_enabled(self.where == "nowhere"):
            x = self.conv(x).mean((2, 3))
        with torch.set_grad_enabled(self.where != "everywhere"):
            return self.head(x)


def test_a_network_without_gradients_is_not_trained():
    with pytest.raises(OptionsError, match=r"--epochs.*outputs.*no gradient.*allowed: .*--epochs 0"):
        check_trainable(WithoutGradients("everywhere"), IMAGES, "--epochs 0")
    with pytest.raises(OptionsError, match=r"--epochs: no parameter.*--epochs 0"):
        check_trainable(tiny_network().requires_grad_(False), IMAGES, "--epochs 0")
    check_trainable(WithoutGradients("in the features"), IMAGES, "--epochs 0")  # its head can be trained
    check_trainable(tiny_network(), IMAGES, "--epochs 0")


class NotTrainable(nn.Module):
    """A network for inference: its gradients fail at once or in the next step, or it decodes its maps in evaluation."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.second, self.kind = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), kind
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        maps = self.conv(x).tanh()
        if self.kind == "graph" and self.training:
            self.mean = 0.9 * self.mean + 0.1 * maps.mean((0, 2, 3))
        found = self.second(maps - self.mean[:, None, None])
        if self.kind == "in place":
            maps.relu_()
        return found.flatten(2) if self.kind == "decoded" and not self.training else found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("in place", "two steps of training.*inplace operation.*--epochs 0"),
        ("graph", "two steps of training.*second time.*--epochs 0"),
        ("decoded", r"\(2, 4, 8, 8\) for 2 images in training mode, and \(2, 4, 64\) in evaluation mode.*--epochs 0"),
    ],
)
def test_steps_of_training_must_run_and_have_the_outputs_of_evaluation(kind, words):
    with pytest.raises(OptionsError, match=words):
        check_trainable(NotTrainable(kind), IMAGES, "--epochs 0")
    check_trainable(NotTrainable("plain"), IMAGES, "--epochs 0")


def test_a_target_names_the_reason_why_there_is_no_gradient():
    with pytest.raises(OptionsError, match=r"--target-mb: the gradient.*inplace operation.*--bits"):
        check_gradients(NotTrainable("in place"), IMAGES, len(IMAGES))


@pytest.mark.parametrize("where", ["everywhere", "in the features"])
def test_a_target_needs_gradients_down_to_the_images(where):
    check_gradients(WithoutGradients("nowhere"), IMAGES, len(IMAGES))
    with pytest.raises(OptionsError, match=r"--target-mb.*no gradient.*--bits"):
        check_gradients(WithoutGradients(where), IMAGES, len(IMAGES))


@pytest.mark.parametrize(("count", "refused"), [(1, True), (31, True), (32, False), (33, True), (34, False)])
def test_a_target_measures_no_single_image_of_a_network_that_takes_none(count, refused):
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4, track_running_stats=False))
    network(IMAGES)
    with pytest.raises(OptionsError, match=r"--target-mb.*batch of one image") if refused else nullcontext():
        check_gradients(network, IMAGES, count)


def test_a_target_needs_gradients_of_every_layer_that_runs():
    class Branch(WithoutGradients):
        def forward(self, x):
            with torch.no_grad():
                weights = self.conv(x).mean((2, 3))
            return self.head(weights + x.mean((2, 3)).repeat(1, 2)[:, :4])

    with pytest.raises(OptionsError, match=r"--target-mb.*'conv'.*no_grad.*--bits"):
        check_gradients(Branch("nowhere").requires_grad_(False), IMAGES, len(IMAGES))
    check_gradients(WithoutGradients("nowhere").requires_grad_(False), IMAGES, len(IMAGES))


class Shrinking(nn.Module):
    """Its second convolution has maps of 1x1, or of a larger size, and a stride of 2."""

    def __init__(self, pixels, kernel=3):
        super().__init__()
        self.pool, self.first = nn.AdaptiveAvgPool2d(pixels), nn.Conv2d(3, 4, 3)
        self.small = nn.Conv2d(4, 4, kernel, stride=2, padding=kernel // 2)

    def forward(self, x):
        return self.small(self.pool(self.first(x))).mean((2, 3))


def test_bf16_is_not_used_where_pytorch_leaves_gradients_unwritten():
    place = accelerator()
    settle_precision(place, Shrinking(1), IMAGES, "auto")
    assert place.precision == "no"
    assert all(term in place.fallback for term in ("small", "1x1", "stride 2x2"))
    with pytest.raises(OptionsError, match=r"--precision.*bf16.*small.*fp32"):
        settle_precision(accelerator(), Shrinking(1), IMAGES, "bf16")


@pytest.mark.parametrize("network", [Shrinking(2), Shrinking(1, kernel=1)], ids=["larger maps", "1x1 kernel"])
def test_bf16_is_used_where_gradients_are_right(network):
    place = accelerator()
    settle_precision(place, network, IMAGES, "auto")
    assert place.precision == "bf16"


class NeedsGradients(Shrinking):
    def forward(self, x):
        x = self.first(x)
        if self.training:
            x.register_hook(lambda gradient: gradient)
        return self.small(self.pool(x)).mean((2, 3))


def test_the_trial_is_a_step_with_gradients():
    place = accelerator()
    settle_precision(place, NeedsGradients(1), IMAGES, "auto")
    assert "small" in place.fallback


class Momentum(nn.Module):
    """An average of weights follows them in training mode."""

    def __init__(self, where):
        super().__init__()
        self.layer, self.average, self.where = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), where

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                getattr(self.average, self.where).lerp_(getattr(self.layer, self.where), 0.1)
        return (self.layer(x) if self.training else self.average(x)).mean((2, 3))


def test_weights_that_a_forward_changes_are_not_trained_through_the_rounding():
    with pytest.raises(OptionsError, match=r"Momentum changes its parameter 'average.weight' in training mode"):
        check_rounded_training(Momentum("weight"), IMAGES)
    check_rounded_training(Momentum("bias"), IMAGES)
    check_rounded_training(tiny_network(), IMAGES)
