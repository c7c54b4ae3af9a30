"""Tensors that no file holds: a network that draws them is named in a warning, in a run and by ``load``."""

import logging
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pipeline import compress, load
from pipeline.models.checks.unstored import changing_tensor
from tests.pipeline.compression.networks import Net, images


class Masked(Net):
    """Its maps are multiplied by values that it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = self.drawn()

    def drawn(self):
        return torch.rand(8, 1, 1)

    def features(self, x):
        x = self.stem(x).relu() * torch.as_tensor(self.mask, dtype=torch.float32)
        return self.last(x + self.block(x)).relu()


class InList(Masked):
    def drawn(self):
        self.masks = [torch.zeros(8, 1, 1), torch.rand(8, 1, 1), torch.zeros(3)]
        return torch.ones(8, 1, 1)


class InArray(Masked):
    def drawn(self):
        return np.random.rand(8, 1, 1)


class InNumbers(Masked):
    def drawn(self):
        return random.sample(range(8), 8)

    def features(self, x):
        x = self.stem(x).relu()[:, self.mask]
        return self.last(x + self.block(x)).relu()


class NotPersistent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(8, 1, 1), persistent=False)


class Odd(Masked):
    """Its other tensors have no values to compare."""

    def drawn(self):
        self.first, self.second = torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")
        return torch.rand(8, 1, 1)


class Persistent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(8, 1, 1))
        self.again, self.layers = self.mask, [self.stem, self.stem.weight]
        self.flat = self.stem.weight.detach().flatten()


class Fixed(Masked):
    def drawn(self):
        return torch.linspace(0, 1, 8)[:, None, None]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Masked, "mask"),
        (InArray, "mask"),
        (InNumbers, "mask"),
        (InList, "masks"),
        (NotPersistent, "mask"),
        (Odd, "mask"),
        (Persistent, None),
        (Fixed, None),
        (lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)), None),
        (lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), None),
        (lambda: prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5), None),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), None),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of weight_norm and lazy modules
def test_a_tensor_that_is_drawn_outside_the_state_dict_is_found(kind, name):
    assert changing_tensor(kind(), kind) == name
    model = kind()
    assert changing_tensor(model, lambda: model) is None


def test_a_network_without_such_tensors_is_built_once():
    assert changing_tensor(Net(), lambda: pytest.fail("built again")) is None


@pytest.mark.parametrize(
    ("kind", "warned"), [(Masked, True), (InArray, True), (InNumbers, True), (Fixed, False), (Net, False)]
)
def test_load_warns_of_values_that_the_file_does_not_hold(kind, warned, tmp_path, caplog):
    """The outputs were others, without a word."""
    network = kind().eval()
    result = compress(network, images(), config="3,2,2", bits=4, fit="weights", rounding="nearest")
    path = result.save(tmp_path / "a.safetensors")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    load(path, network=network)
    assert not caplog.records
    assert (torch.equal(torch.get_rng_state(), before[0]), np.random.get_state()[1].tolist()) == (True, before[1])
    same = torch.equal(load(path, network=kind)(images()), result.network(images()))
    assert same is not warned
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * warned
    assert ("load: mask differs each time" in caplog.text) is warned


def test_a_function_that_returns_one_network_once_is_loaded_into(tmp_path, caplog):
    path = compress(Masked(), images(), config="3,2,2", bits=4, fit="weights", rounding="nearest").save(tmp_path / "a")
    networks = [Masked()]
    assert isinstance(load(path, network=networks.pop), nn.Module)
    assert not caplog.records
