"""Counts against the poster's figures."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d
from basis.errors import CompressionError
from quant.backends import BACKENDS, get_backend
from quant.counting import compressible_params, count_params, poster_size_mb
from quant.formats import IntFormat


def _built(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name)
    return model


def test_resnet18_counts_as_on_the_poster() -> None:
    assert count_params(_built("resnet18")) == 11_679_912


def test_convnext_tiny_counts_stem_and_depthwise_kernels() -> None:
    assert compressible_params(_built("convnext_tiny")) == 329_184


def test_every_normalization_layer_is_left_out() -> None:
    layers = [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm3d(4, affine=True),
        torchvision.models.convnext.LayerNorm2d(4),
    ]
    assert count_params(nn.Sequential(nn.Linear(3, 4), *layers)) == 16


def test_shared_parameters_count_once() -> None:
    first, second = nn.Conv2d(2, 2, 3, bias=False), nn.Conv2d(2, 2, 3, bias=False)
    second.weight = first.weight
    assert count_params(nn.Sequential(first, second)) == compressible_params(nn.Sequential(first, second)) == 36


def test_coefficients_count_in_place_of_the_kernel() -> None:
    series = SeriesConv2d(nn.Conv2d(3, 5, 3), "cosine", (2, 2))
    model = nn.Sequential(series, nn.Conv2d(5, 4, 1))
    assert count_params(model) == 5 * 3 * 4 + 5 + 4 * 5 + 4
    assert compressible_params(model) == 5 * 3 * 4


@pytest.mark.parametrize("name", list(BACKENDS))
def test_fake_quantizers_do_not_change_the_counts(name: str) -> None:
    conv = nn.Conv2d(3, 5, 3)
    fake = get_backend(name).fake_quantizer(conv.weight, IntFormat(4))
    parametrize.register_parametrization(conv, "weight", fake)
    assert count_params(conv) == 5 * 27 + 5
    assert compressible_params(conv) == 5 * 27


def test_network_without_spatial_kernels_has_nothing_to_compress() -> None:
    assert compressible_params(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))) == 0


@pytest.mark.parametrize(("params", "bits", "size"), [(11_679_912, 8, 23.36), (11_679_912, 4, 17.52)])
def test_poster_size(params: int, bits: int, size: float) -> None:
    assert poster_size_mb(params, bits) == pytest.approx(size, abs=0.005)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(CompressionError, match="allowed: params of 0"):
        poster_size_mb(-1, 8)
    with pytest.raises(CompressionError, match="bits of 1 or more"):
        poster_size_mb(1, 0)
