"""Experts behind a gate that the images of the check do not open, and that opens otherwise in a compressed network."""

import pytest
import torch
from torch import Tensor, nn

from pipeline import compress
from tests.pipeline.compression.networks import Net, images, seeded

MARK = 7.0
X = images(96)
X[8:40, 0, 0, 0] = MARK
BATCHES = [X]  # of an iterable, the first images are those of the check


class Experts(Net):
    """A second branch for half of the marked images: which half depends on all digits of the features."""

    branch: type[nn.Module] = nn.Conv2d

    def __init__(self) -> None:
        super().__init__()
        self.rare = nn.Conv2d(12, 12, 3, padding=1) if self.branch is nn.Conv2d else nn.Linear(12, 12)

    def forward(self, x):
        features = self.features(x)
        opened = (x[:, 0, 0, 0] == MARK) & ((features.flatten(1).sum(1) * 1000).frac() > 0.5)
        if self.branch is nn.Linear:
            features = features.mean((2, 3))
        if bool(opened.any()):
            features = features.index_add(0, opened.nonzero().flatten(), self.rare(features[opened]))
        return self.head(features.flatten(2).mean(2) if self.branch is nn.Conv2d else features)


class LinearExperts(Experts):
    branch = nn.Linear


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (Experts, {"bits": 4, "config": "5,3,3,3"}),
        (Experts, {"target_mb": 0.0035}),
        (LinearExperts, {"bits": 4, "config": "5,3,3"}),
        (LinearExperts, {"target_mb": 0.002}),
    ],
)
def test_a_rare_expert_is_rounded_to_nearest_and_named(kind, size, caplog):
    network = seeded(kind)
    result = compress(network, BATCHES, **size)
    assert "the layer rare runs on some of the calibration images alone" in caplog.text
    (layer,) = [layer for layer in result.layers if layer.name == "rare"]
    assert layer.rounding_error is None
    found, wanted = (each.get_parameter("rare.weight").detach() for each in (result.network, network))
    assert float((found - wanted).norm() / wanted.norm()) < 0.4


class Split(nn.Module):
    """A network whose second layer runs twice on eight images at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.parts = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([self.parts(self.parts(part)) for part in self.stem(x).relu().split(8)])
        return self.head(maps.mean((2, 3)))


def test_a_layer_that_runs_twice_on_parts_of_the_batch_is_named(caplog):
    result = compress(seeded(Split), BATCHES, bits=4, config="3,3")
    assert "the layer parts runs on some of the calibration images alone" in caplog.text
    assert "several times on parts of the batch" in caplog.text
    assert [layer.name for layer in result.layers if layer.rounding_error is None] == ["parts"]


def test_a_layer_that_no_image_reaches_is_named_in_a_target(caplog):
    compress(seeded(Experts), [X[:8]], target_mb=0.0035)
    assert "the layer rare runs on none of the calibration images" in caplog.text
