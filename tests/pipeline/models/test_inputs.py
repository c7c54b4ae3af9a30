"""The channels and the normalization that a network takes."""

import pytest
import torch
from torch import nn

from pipeline.models import build_model
from pipeline.models.inputs import input_channels, published_statistics


class Net(nn.Module):
    """A convolution behind some preparation of the images."""

    def __init__(self, channels, prepare=None, **attributes):
        super().__init__()
        self.prepare = prepare or (lambda x: x)
        self.conv = nn.Conv2d(channels, 4, 3)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.conv(self.prepare(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "available", "expected"),
    [
        (Net(3), 3, 3),
        (Net(3), 1, 3),
        (Net(1), 1, 1),
        (Net(1), 3, 1),
        (Net(13), 13, 13),
        (Net(13), 3, 13),
        (Net(12, nn.PixelUnshuffle(2)), 3, 3),
        (Net(12, nn.PixelUnshuffle(2)), 1, 3),
        (Net(1, lambda x: x.mean(1, keepdim=True)), 3, 3),
        (Net(3, lambda x: x - torch.zeros(1, 3, 1, 1)), 1, 3),
        (Net(8, nn.PixelUnshuffle(2), in_chans=2), 1, 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), 1, 1),
        (nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), 4, 4),
        (build_model("resnet20", 4), 1, 3),
    ],
)
def test_channels_follow_from_running_the_network(model, available, expected):
    model.train()
    assert input_channels(model, available, (8, 8)) == expected
    assert model.training


def test_a_lazy_network_takes_the_channels_of_the_data():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    assert input_channels(model, 5, (8, 8)) == 5
    assert model[0].in_channels == 5


def test_torchvision_publishes_the_normalization_of_its_weights():
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = nn.Identity()
    assert published_statistics(model, "resnet18", "auto") == imagenet
    assert published_statistics(model, "efficientnet_v2_l", "IMAGENET1K_V1") == ((0.5,) * 3, (0.5,) * 3)
    assert published_statistics(model, "efficientnet_v2_l", "my.pth") == ((0.5,) * 3, (0.5,) * 3)


def test_networks_of_this_project_do_not_import_torchvision(monkeypatch):
    def imported():
        raise AssertionError

    monkeypatch.setattr("pipeline.models.torchvision_models.names", imported)
    assert published_statistics(build_model("resnet20", 10), "resnet20", "none") is None


class Config:
    mean, std = (0.1,), (0.2,)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": (0.25, 0.25, 0.25)}}, ((0.5,) * 3, (0.25,) * 3)),
        ({"default_cfg": Config()}, ((0.1,), (0.2,))),
        ({"pretrained_cfg": {"mean": (0.5, 0.5), "std": (1.0,)}}, None),
        ({"pretrained_cfg": {"mean": "half", "std": None}}, None),
        ({}, None),
    ],
)
def test_a_networks_own_configuration_has_its_normalization(attributes, expected):
    model = Net(3, **attributes)
    assert published_statistics(model, "nets:Net", "auto") == expected
    assert published_statistics(nn.DataParallel(model), "nets:Net", "auto") == expected


def test_a_real_network_of_timm():
    timm = pytest.importorskip("timm")
    model = timm.create_model("tf_efficientnet_lite0", num_classes=4)
    assert published_statistics(model, "nets:make", "auto") == ((0.5,) * 3, (0.5,) * 3)
    assert input_channels(timm.create_model("resnet18", num_classes=4, in_chans=1), 1, (32, 32)) == 1
