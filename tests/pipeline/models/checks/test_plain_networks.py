"""Networks that pass the check before any work as they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.pipeline.models.checks.checking import Base, check, kept
from tests.support.networks import tiny_network, with_statistics


class TwoSizes(Base):
    """One layer for two sizes of maps, and another path in training."""

    def features(self, x):
        x = super().features(x)
        if self.training:
            x = x * (torch.rand(len(x), 1, 1, 1) > 0.2)
        return self.conv2(x) + functional.interpolate(self.conv2(functional.max_pool2d(x, 2)), scale_factor=2)


class OtherNorms(Base):
    """Normalization of the input, of groups and of maps; and it remembers its last features."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1))
        self.norm, self.maps = nn.GroupNorm(2, 4), nn.LayerNorm([4, 12, 12])

    def features(self, x):
        self.last = self.maps(super().features(x - self.mean))
        return self.last


class Strided(Base):
    """Padding by reflection, dilated groups, a stride above the kernel, and kernels of one row or column."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.conv2 = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, padding_mode="circular"),
            nn.Conv2d(4, 4, 2, stride=3),
            nn.Conv2d(4, 4, (1, 3), padding="same"),
            nn.Conv2d(4, 4, (3, 1), padding="same"),
        )


@pytest.mark.parametrize(
    "make",
    [
        *(Base, TwoSizes, OtherNorms, Strided, lambda: with_statistics(tiny_network()).train()),
        lambda: Base().to(memory_format=torch.channels_last),
    ],
)
def test_a_plain_network_passes_unmarked_and_unchanged(make):
    model = check(make)
    assert kept(model) == {}
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    for name, value in make().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


class Remembering(Base):
    """Keeps constants, an optional mask, and maps of the last pass, none of which stands for a parameter."""

    def __init__(self):
        super().__init__()
        self.factor, self.mask, self.last = torch.tensor(2.0), torch.full((4, 1, 1), 0.5), []
        self.register_buffer("ones", torch.ones(1).expand(3), persistent=False)  # no file holds it

    def features(self, x):
        x = self.factor * super().features(x)
        x = x if self.mask is None else x * self.mask
        self.last = [x]
        return x


class OtherOutputsInTraining(Base):
    """Training returns a dict without an entry that is taken by default."""

    def forward(self, x):
        logits = super().forward(x)
        return {"main": logits, "aux": 2 * logits} if self.training else logits


def test_no_layer_is_kept_for_what_stands_for_no_parameter():
    assert kept(check(Remembering)) == {}


def test_an_output_is_chosen_where_only_one_mode_has_several():
    network = check(OtherOutputsInTraining, output="main").train()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 12, 12)).shape == (2, 4)


def test_a_network_that_mixes_the_images_of_a_batch_is_named(caplog):
    class BatchStatistics(Base):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    check(BatchStatistics)
    assert "BatchStatistics mixes the images" in caplog.text
    caplog.clear()
    check(OtherNorms)
    assert not caplog.text
