"""Layers as users change them that no file can hold: they are refused before any work."""

import collections
import types
from functools import partial

import pytest
import torch
from torch import nn

from pipeline import compress
from pipeline.errors import OptionsError
from tests.pipeline.compression.two_convolutions import IMAGES, Net


class SharesMemory(Net):
    def __init__(self):
        super().__init__()
        self.three = nn.Conv2d(8, 8, 3, padding=1)
        self.three.weight.data = self.two.weight.data

    def features(self, x):
        return self.three(super().features(x)[:, :, None, None]).mean((2, 3))


class HidesLayer(Net):
    def __init__(self, hide):
        super().__init__()
        self.hidden = hide(nn.Conv2d(8, 8, 3, padding=1))

    def features(self, x):
        hidden = self.hidden.conv if isinstance(self.hidden, types.SimpleNamespace) else self.hidden
        hidden = hidden[0] if isinstance(hidden, collections.deque) else hidden
        return hidden(self.conv(x).relu()).mean((2, 3))


class CopiesItselfAsItself(nn.Sequential):
    def __deepcopy__(self, memo):
        return self


class NotCopied(Net):
    def __init__(self):
        super().__init__()
        self.two = CopiesItselfAsItself(nn.Conv2d(8, 8, 3, padding=1))


class OddParameters(Net):
    def parameters(self, recurse=True):
        return [{"params": list(super().parameters()), "lr": 0.1}]


class CachesWithoutState(Net):
    """A copy of a copy fails."""

    def __init__(self):
        super().__init__()
        self.cache = {"scale": 2.0}

    def __getstate__(self):
        state = self.__dict__.copy()
        state.pop("cache")
        return state


def dynamic():
    return torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)


def exported():
    return torch.export.export(Net().eval(), (IMAGES[:2],)).module()


def closure(layer):
    return lambda x: layer(x)


REFUSED = [
    (SharesMemory, "memory"),
    (partial(HidesLayer, lambda layer: types.SimpleNamespace(conv=layer)), "does not register"),
    (partial(HidesLayer, lambda layer: collections.deque([layer])), "does not register"),
    (partial(HidesLayer, closure), "does not register"),
    (NotCopied, "two.*__deepcopy__"),
    (OddParameters, r"parameters\(\)"),
    (dynamic, "quantized"),
    (exported, "export"),
    (CachesWithoutState, "copied"),
]


@pytest.mark.filterwarnings("ignore")  # of torch.ao
@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_no_file_can_hold_is_refused(make, words):
    network = make()
    before = sorted(network.state_dict())
    with pytest.raises(OptionsError, match=words):
        compress(network, IMAGES, config=2, bits=4, epochs=1)
    assert sorted(network.state_dict()) == before
