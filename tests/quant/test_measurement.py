"""Freedoms against sums over all positions; ranks."""

import copy

import pytest
import torch
from torch import nn

from basis.conv import SeriesConv2d
from basis.gram_statistics import GramStatistics
from basis.patches import patch_batches, samples
from basis.shard import CalibrationShard
from basis.swap import swap_convolutions
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import LayerMeasurement, columns_hessian, measure_freedoms
from tests.support.lockstep import in_shares


def network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, stride=2, groups=2)
    return nn.Sequential(
        first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(72, 5, bias=False)
    ).eval()


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.3


def series(original: nn.Module) -> nn.Module:
    return swap_convolutions(copy.deepcopy(original), {"0": (3, 3), "3": (2, 3)}, "cosine").eval()


def measured(original: nn.Module, images: torch.Tensor) -> dict[str, LayerMeasurement]:
    model = series(original)
    return measure_layers(model, OriginalPass.record(model, original, images))


def reference(model: nn.Module, images: torch.Tensor, name: str) -> torch.Tensor:
    """The Hessian of a layer from all positions of all images in one batch."""
    with torch.no_grad():
        x = model[: int(name)](images)
    if name == "6":
        return x.double().T @ x.double() / len(x)  # without a bias: the second moment
    conv = model[int(name)]
    assert isinstance(conv, SeriesConv2d)
    batches = patch_batches(conv, x, samples(conv, x), conv.operator)
    return columns_hessian(GramStatistics.accumulate(batches, constant=True), centered=True)


@pytest.mark.parametrize("name", ["0", "3", "6"])
def test_freedoms_are_of_all_images_and_of_the_original_inputs(original, images, name):
    found, expected = measured(original, images)[name], reference(series(original), images, name)
    groups = series(original)[int(name)].groups if name != "6" else 1
    freedoms = measure_freedoms(expected.expand(groups, -1, -1).contiguous(), tuple(found.freedoms.shape))
    torch.testing.assert_close(found.freedoms, freedoms, rtol=1e-3, atol=0)


def test_ranks_measure_the_same(original, images):
    whole = measured(original, images)

    def work(mine: torch.Tensor, shard: CalibrationShard) -> dict[str, LayerMeasurement]:
        model, own = series(original), copy.deepcopy(original)
        return measure_layers(model, OriginalPass.record(model, own, mine, shard=shard))

    for share in in_shares(2, images, work):
        assert list(share) == list(whole)
        for name, each in share.items():
            assert each.sensitivity == pytest.approx(whole[name].sensitivity, rel=1e-4)
            torch.testing.assert_close(each.freedoms, whole[name].freedoms, rtol=1e-3, atol=0)
