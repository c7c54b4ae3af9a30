"""Freedoms and Hessians against sums over all positions; few images of the rounding; ranks."""

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
from quant.rate_rounding import round_network
from tests.support.lockstep import in_shares

FEW = 24


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


def measured(original: nn.Module, images: torch.Tensor, rounding_images: int) -> dict[str, LayerMeasurement]:
    model = series(original)
    return measure_layers(model, OriginalPass.record(model, original, images, rounding_images=rounding_images))


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
def test_hessians_and_freedoms_are_of_all_images_and_of_the_original_inputs(original, images, name):
    found, expected = measured(original, images, FEW)[name], reference(series(original), images, name)
    assert found.hessian.dtype == torch.float32
    torch.testing.assert_close(found.hessian.double(), expected.expand_as(found.hessian), rtol=1e-4, atol=1e-5)
    terms = tuple(found.freedoms.shape)
    freedoms = measure_freedoms(expected.expand_as(found.hessian).contiguous(), terms)
    torch.testing.assert_close(found.freedoms, freedoms, rtol=1e-3, atol=0)


def test_hessians_are_kept_only_for_images_that_the_rounding_does_not_have(original, images):
    assert all(each.hessian is None for each in measured(original, images, len(images)).values())
    assert all(each.hessian is not None for each in measured(original, images, FEW).values())


def test_the_rounding_passes_the_first_images_and_uses_the_hessians_of_all(original, images):
    model = series(original)
    recorded = OriginalPass.record(model, original, images, rounding_images=FEW)
    assert torch.equal(recorded.images, images[:FEW])
    measurements = measure_layers(model, recorded)
    few = OriginalPass.record(model, original, images[:FEW])
    steps = {
        name: LayerMeasurement(each.sensitivity, each.freedoms, None if other is None else each.hessian)
        for other in (None,)
        for name, each in measurements.items()
    }
    both, alone = (round_network(model, recorded, given, 3000.0) for given in (measurements, steps))
    assert any(not torch.equal(both.layers[n].integers, alone.layers[n].integers) for n in measurements)
    again = round_network(model, few, measurements, 3000.0)
    for name, tensor in both.layers.items():
        assert torch.equal(tensor.integers, again.layers[name].integers)


def test_ranks_measure_the_same(original, images):
    whole = measured(original, images, len(images))

    def work(mine: torch.Tensor, shard: CalibrationShard) -> dict[str, LayerMeasurement]:
        model, own = series(original), copy.deepcopy(original)
        return measure_layers(model, OriginalPass.record(model, own, mine, shard=shard, rounding_images=FEW))

    for share in in_shares(2, images, work):
        assert list(share) == list(whole)
        for name, each in share.items():
            assert each.hessian is None
            assert each.sensitivity == pytest.approx(whole[name].sensitivity, rel=1e-4)
            torch.testing.assert_close(each.freedoms, whole[name].freedoms, rtol=1e-3, atol=0)
