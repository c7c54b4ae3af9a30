"""Computed weights become parameters in one network, and not in its copies."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from pipeline.models.preparation import fold_parametrizations, plain_copy

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KINDS = {
    "weight": parametrizations.weight_norm,
    "spectral": parametrizations.spectral_norm,
    "old weight": nn.utils.weight_norm,
    "old spectral": nn.utils.spectral_norm,
    "mask": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(KINDS[kind](nn.Conv2d(3, 4, 3)), nn.ReLU(), KINDS[kind](nn.Conv2d(4, 2, 3))).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_stored_network_computes_the_same_and_its_copies_are_left_alone(kind):
    model = network(kind)
    wanted = model(X)
    twin, stored = plain_copy(model), fold_parametrizations(plain_copy(model))
    assert torch.allclose(stored(X), wanted, atol=1e-6)
    assert {name for name, _ in stored.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not list(stored.named_buffers())
    assert torch.equal(model(X), wanted)
    assert torch.equal(twin(X), wanted)
    with torch.no_grad():
        stored[0].weight.zero_()
    assert not torch.equal(stored(X), model(X))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_network_with_a_graph_in_its_weights_is_copied():
    model = network("old weight")
    model.train()(X)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    assert torch.equal(plain_copy(model).eval()(X), model.eval()(X))
