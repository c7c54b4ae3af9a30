"""The search of a file's size: a trained network is trimmed as little as its size needs."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from basis.layers import stored_layers, stored_values
from basis.swap import swap_convolutions
from pipeline.artifact import Identity
from pipeline.options.grid import Target
from pipeline.runtime.progress import SilentProgress
from pipeline.stages.target_search import THRESHOLDS, SizeSearch
from quant.stepped_training import NEAREST, SteppedFakeQuantizer, attach_stepped_quantizers, stepped_layers

IDENTITY = Identity("tiny_net:make", 4, ("a", "b", "c", "d"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (12, 12))
PLAN = {"0": (3, 3), "1": (3, 3)}


@pytest.fixture
def trained() -> nn.Module:
    """A network whose integers take most of its file, and less than a bit each."""
    torch.manual_seed(0)
    model = swap_convolutions(nn.Sequential(nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3)), PLAN, "cosine").eval()
    steps = {
        name: 16 * (1.5 * stored_values(layer).detach().std()).log2() for name, layer in stored_layers(model).items()
    }
    model = attach_stepped_quantizers(model, steps)
    for module in model.modules():
        if isinstance(module, SteppedFakeQuantizer):
            module.shift.zero_()
    return model


@pytest.fixture
def search(trained) -> SizeSearch:
    return SizeSearch(SimpleNamespace(model=trained), IDENTITY, "it", SilentProgress())


def integers(found) -> dict[str, torch.Tensor]:
    return {layer.name: layer.values.integers for layer in found.record.layers}


def same(found, layers) -> bool:
    return all(torch.equal(tensor.integers, integers(found)[name]) for name, tensor in layers.items())


def size_at(search: SizeSearch, trained: nn.Module, threshold: float) -> int:
    """The size of the file whose integers are rounded with a threshold: a limit that no other one can meet exactly."""
    return search.rounded_at(threshold, trained, {}, 10**9).size


@pytest.mark.parametrize("share", [1.0, 0.98])
def test_a_file_within_the_accepted_range_is_rounded_to_the_nearest(search, trained, share):
    size = int(size_at(search, trained, NEAREST) / share)
    assert same(search.trimmed(trained, {}, size), stepped_layers(trained, NEAREST))


@pytest.mark.parametrize("threshold", [0.4, 0.45, 0.55, 0.62])
def test_a_file_that_misses_its_size_moves_as_few_values_as_possible(search, trained, threshold):
    size = size_at(search, trained, threshold)
    if threshold < NEAREST:
        size = int(size / 0.971)  # the file at the threshold is one of the smallest that are accepted
    assert not Target(megabytes=size / 1e6).fits(size_at(search, trained, NEAREST))
    found = search.trimmed(trained, {}, size)
    assert Target(megabytes=size / 1e6).fits(found.size)
    further = stepped_layers(trained, NEAREST + 1.1 * (threshold - NEAREST))
    assert 0 < moved(trained, integers(found)) < moved(trained, {n: each.integers for n, each in further.items()})


def moved(trained: nn.Module, found: dict[str, torch.Tensor]) -> int:
    """The number of integers that are not the nearest."""
    return sum(int((each.integers != found[name]).sum()) for name, each in stepped_layers(trained, NEAREST).items())


def test_a_size_out_of_reach_gives_the_nearest_file(search, trained):
    smallest = size_at(search, trained, THRESHOLDS[1])
    found = search.trimmed(trained, {}, smallest // 2)
    assert found.size <= size_at(search, trained, 0.64)
