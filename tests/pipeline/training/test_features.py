"""The points at which students are compared with teachers, and the feature loss against numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models.registry import build_model
from pipeline.training.features import FeatureHooks, feature_loss, feature_points
from tests.support.networks import tiny_network


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("resnet20", ("layer1", "layer2", "layer3")),
        ("resnet18", ("layer1", "layer2", "layer3", "layer4")),
        ("convnext_tiny", tuple(f"features.{i}" for i in range(8))),
        ("alexnet", tuple(f"features.{i}" for i in (0, 3, 6, 8, 10))),
    ],
)
def test_the_points_are_the_stages(name, points):
    with torch.device("meta"):
        assert feature_points(build_model(name, 10)) == points


def test_taps_take_the_last_outputs_and_leave_no_hooks():
    network, x = tiny_network(), torch.randn(2, 3, 8, 8)
    taps = FeatureHooks(feature_points(network))
    with taps.on(network), torch.no_grad():
        network(torch.zeros_like(x))
        network(x)
        found = taps.take()
        assert taps.take() == {}
        assert all(torch.equal(a, network[:end](x)) for a, end in zip(found.values(), (1, 2, 3), strict=True))
    network(x)
    assert taps.take() == {}


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_a_stage_that_gives_no_tensor_is_left_out():
    network = nn.Sequential(Pair())
    taps = FeatureHooks(("0",))
    with taps.on(network):
        network(torch.zeros(1))
        assert taps.take() == {}
    assert float(feature_loss({}, {})) == 0


def test_the_loss_is_the_mean_squared_error_in_units_of_the_teachers_variance():
    generator = np.random.default_rng(0)
    pairs = [(generator.normal(size=(2, 3, 4)), 5 * generator.normal(size=(2, 3, 4))) for _ in range(2)]
    expected = np.mean([((a - b) ** 2).mean() / b.var(ddof=1) for a, b in pairs])
    own, wanted = ({str(at): torch.from_numpy(pair[side]) for at, pair in enumerate(pairs)} for side in (0, 1))
    assert float(feature_loss(own, wanted)) == pytest.approx(expected, rel=1e-5)
    others = {"missing in the student": torch.ones(2, 3), "cropped": torch.ones(2, 3, 8)}
    more = {"missing in the teacher": torch.ones(2, 3), "cropped": torch.ones(2, 3, 4)}
    assert torch.equal(feature_loss(own | more, wanted | others), feature_loss(own, wanted))


def test_a_constant_feature_does_not_divide_by_zero():
    assert torch.isfinite(feature_loss({"a": torch.ones(3)}, {"a": torch.zeros(3)}))


def test_a_single_value_is_compared_with_its_square_and_no_value_is_left_out():
    own, wanted = {"a": torch.tensor([[3.0]])}, {"a": torch.tensor([[2.0]])}
    assert float(feature_loss(own, wanted)) == pytest.approx(1 / 4)
    nothing = {"b": torch.ones(1, 0)}
    assert float(feature_loss(own | nothing, wanted | nothing)) == pytest.approx(1 / 4)
