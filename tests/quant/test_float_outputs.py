"""The float network's outputs in several passes: the rounding is the same, and no more rows are held than fit."""

import copy
import weakref

import pytest
import torch
from torch import nn

from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard
from quant import float_outputs
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.float_outputs import FloatOutputs, layer_row_bytes
from quant.formats import IntFormat
from tests.support.networks import tiny_network

IMAGES = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0))
NAMES = ("0.0", "1.0", "1.2", "2.0", "5")


def outputs(sampling=DEFAULT_SAMPLING):
    seeds = dict.fromkeys(NAMES, 0)
    return FloatOutputs(tiny_network(), seeds, IMAGES, CalibrationShard.whole(len(IMAGES)), sampling)


@pytest.mark.parametrize("most", [1, 80_000])
def test_several_passes_give_the_same_rounding(monkeypatch, most):
    def rounded():
        model = copy.deepcopy(tiny_network())
        return round_layers(model, IMAGES, IntFormat(4), get_backend("brevitas"), rounding="gptq")

    whole = rounded()
    monkeypatch.setattr(float_outputs, "ROW_BYTES", most)
    parts = rounded()
    assert parts.errors == whole.errors
    for name, values in whole.layers.items():
        assert torch.equal(parts.layers[name].dequantize(), values.dequantize())


@pytest.mark.parametrize("positions", [2**16, 240])
def test_the_sizes_are_those_of_the_rows(positions):
    sampling = SamplingConfig(positions=positions)
    sizes = layer_row_bytes(tiny_network(), NAMES, IMAGES[:2], len(IMAGES), sampling)
    found = outputs(sampling)
    assert {name: rows.nbytes for name in NAMES if (rows := found.pop(name)) is not None} == sizes


def test_a_layer_is_held_only_until_it_is_rounded(monkeypatch):
    monkeypatch.setattr(float_outputs, "ROW_BYTES", 1)
    found = outputs()
    rows = found.pop("1.0")
    assert rows is not None
    held = weakref.ref(rows)
    del rows
    assert held() is None
    assert found.pop("1.0") is None
    assert found.pop("another") is None


def test_a_layer_that_does_not_run_has_no_outputs():
    class Skips(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    network = Skips(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    found = FloatOutputs(network, {"0": 0, "1": 0}, IMAGES, CalibrationShard.whole(len(IMAGES)), DEFAULT_SAMPLING)
    assert found.pop("1") is None
    assert found.pop("0") is not None
