"""The search of a file's size: a trained network is trimmed as little as its size needs."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from basis.layers import stored_layers, stored_values
from basis.swap import swap_convolutions
from pipeline.artifact import Identity
from pipeline.options.grid import Target
from pipeline.runtime.progress import SilentProgress
from pipeline.stages.targets.search import THRESHOLDS, Compressed, SizeSearch
from pipeline.stages.train import TrainingSummary
from quant.rate import nearest_to_steps
from quant.stepped_training import UNDECIDED, attach_stepped_quantizers, stepped_layers

IDENTITY = Identity("tiny_net:make", 4, ("a", "b", "c", "d"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (12, 12))
PLAN = {"0": (3, 3), "1": (3, 3)}


@pytest.fixture
def trained() -> nn.Module:
    """A network whose integers take most of its file, and less than a bit each."""
    torch.manual_seed(0)
    model = swap_convolutions(nn.Sequential(nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3)), PLAN, "cosine").eval()
    values = {name: stored_values(layer).detach().clone() for name, layer in stored_layers(model).items()}
    start = {}
    for name, each in values.items():
        exponents = torch.full(each.shape[2:], round(16 * math.log2(1.5 * float(each.std())))).to(torch.int16)
        start[name] = nearest_to_steps(each, exponents)
    model = attach_stepped_quantizers(model, start, values)
    for name in values:
        logits = next(model.get_submodule(name).parametrizations.parameters())
        logits.data.add_(2 * torch.randn(logits.shape))
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
def test_a_file_within_the_accepted_range_is_rounded_as_trained(search, trained, share):
    size = int(size_at(search, trained, UNDECIDED) / share)
    assert same(search.trimmed(trained, {}, size), stepped_layers(trained, UNDECIDED))


@pytest.mark.parametrize("threshold", [-1.5, -0.8, 0.8, 1.5])
def test_a_file_that_misses_its_size_moves_as_few_values_as_possible(search, trained, threshold):
    size = size_at(search, trained, threshold)
    if threshold < UNDECIDED:
        size = int(size / 0.971)  # the file at the threshold is one of the smallest that are accepted
    assert not Target(megabytes=size / 1e6).fits(size_at(search, trained, UNDECIDED))
    found = search.trimmed(trained, {}, size)
    assert Target(megabytes=size / 1e6).fits(found.size)
    further = stepped_layers(trained, UNDECIDED + 1.1 * (threshold - UNDECIDED))
    assert 0 < moved(trained, integers(found)) < moved(trained, {n: each.integers for n, each in further.items()})


def moved(trained: nn.Module, found: dict[str, torch.Tensor]) -> int:
    """The number of integers that are not those of the training."""
    return sum(int((each.integers != found[name]).sum()) for name, each in stepped_layers(trained, UNDECIDED).items())


def test_a_size_out_of_reach_gives_the_nearest_file(search, trained):
    smallest = size_at(search, trained, THRESHOLDS[1])
    found = search.trimmed(trained, {}, smallest // 2)
    assert found.size <= size_at(search, trained, 0.9 * THRESHOLDS[1])


class Curve(SizeSearch):
    """A search among files whose size is a function of the bits."""

    def __init__(self, size_of) -> None:
        super().__init__(SimpleNamespace(layers={}), IDENTITY, "it", SilentProgress())
        self.size_of, self.bits = size_of, []

    def _round(self, bits, size, advance):
        self.bits.append(bits)
        return SimpleNamespace(model=None, layers={}, errors={})

    def _record(self, model, layers, size):
        return None

    def _size(self, record):
        return round(self.size_of(self.bits[-1]))

    def _other_bytes(self, size):
        return 0

    def _coded_share(self, bits):
        return 1.6  # far from that of the file


@pytest.mark.parametrize("size", [190_000, 200_000, 250_000])
def test_a_size_between_those_of_two_passes_is_found(size):
    steep = Curve(lambda bits: bits / 8 + 2.6 * max(bits / 8 - 100_000, 0))  # the coder of large integers takes more
    assert Target(megabytes=size / 1e6).fits(steep.rounded(size)[1].size)


@pytest.mark.parametrize("size", [5_200, 5_500, 6_000])
def test_a_size_near_zero_bits_is_found(size):
    """ResNet-20 has such sizes: the first bits take bytes of tables, and the interpolation stayed far above them."""
    concave = Curve(lambda bits: 2239 + 3700 * min(bits / 1200, 1) ** 0.2 + max(bits - 1200, 0) / 11)
    assert Target(megabytes=size / 1e6).fits(concave.rounded(size)[1].size)


@pytest.mark.parametrize("width", [0.12, 0.2])
def test_a_size_of_few_layers_is_found(width):
    """The steps of a few linear layers jump together, so that small changes of the bits leave the file as it is."""
    stairs = Curve(lambda bits: 100_020 * 1.015 ** math.floor(math.log(bits / 494_000) / width + 0.5))
    assert Target(megabytes=0.1).fits(stairs.rounded(100_000)[1].size)


def test_the_search_ends_where_more_bits_change_nothing():
    flat = Curve(lambda bits: min(bits / 8, 100_000))
    assert flat.rounded(200_000)[1].size == 100_000
    assert len(flat.bits) == 3


@pytest.mark.parametrize(
    ("size", "gain", "words"), [(400, 0.0, "left a file of 400 bytes"), (1000, -3.0, "lost more on held-out")]
)
def test_a_rollback_has_its_reason(monkeypatch, size, gain, words):
    found, plain = (Compressed(None, each, {}) for each in (size, 990))
    search = SizeSearch(SimpleNamespace(model=nn.Sequential()), IDENTITY, "it", SilentProgress())
    monkeypatch.setattr(search, "trimmed", lambda model, others, size: found)
    rounded = SimpleNamespace(model=nn.Sequential(), layers={}, used={})
    scores = iter((50.0, 50.0 + gain))  # of the network without training, and of the trained one
    result = search.trained(
        rounded, plain, 1000, lambda model, rate: TrainingSummary(1.0, 2), lambda record: next(scores), 1.0
    )
    assert (result.size, result.training.undone) == (990, True)
    assert words in result.training.fault
