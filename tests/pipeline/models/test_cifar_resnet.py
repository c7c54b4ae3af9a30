"""The CIFAR ResNets against the paper's counts and the shortcut's definition."""

import pytest
import torch

from pipeline.models.cifar_resnet import BLOCKS, BUILDERS, BasicBlock


@pytest.mark.parametrize("name", BLOCKS)
def test_layers_are_six_n_plus_two(name):
    with torch.device("meta"):
        model = BUILDERS[name](10)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == int(name.removeprefix("resnet"))


def test_resnet20_has_the_papers_parameters():
    assert sum(p.numel() for p in BUILDERS["resnet20"](10).parameters()) == 269_722


def test_layer_names():
    assert [name for name, _ in BUILDERS["resnet20"](10).named_children()] == [
        "conv1", "bn1", "layer1", "layer2", "layer3", "linear",
    ]  # fmt: skip


def test_shortcut_subsamples_and_pads_the_channels():
    x = torch.randn(2, 16, 8, 8)
    out = BasicBlock(16, 32, 2).shortcut(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize("size", [32, 48])
def test_output_has_one_logit_per_class(size):
    assert BUILDERS["resnet20"](7)(torch.randn(2, 3, size, size)).shape == (2, 7)
