"""Checkpoints of networks with pruning masks, weight norm and spectral norm."""

import warnings

import pytest
import torch
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.support.checkpoints import Net, has_weights, prefixed, trained


def _masked(layer):
    prune.random_unstructured(layer, "weight", 0.5)


KINDS = {
    "mask": _masked,
    "weight-norm": weight_norm,
    "weight-norm-whole": lambda layer: weight_norm(layer, dim=None),
    "new-weight-norm": parametrizations.weight_norm,
    "spectral-norm": spectral_norm,
    "new-spectral-norm": parametrizations.spectral_norm,
}


def _changed(kind, seed):
    net = trained(seed)
    with warnings.catch_warnings(action="ignore"):
        for layer in (net.conv1, net.layer1[0], net.fc):
            kind(layer)
    return net.eval()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_plain_network_gets_the_weights_of_evaluation(tmp_path, kind):
    stored, net, images = _changed(kind, 1), Net().eval(), torch.rand(2, 3, 8, 8)
    torch.save({"model": prefixed("module.", stored.state_dict())}, tmp_path / "c.pt")
    load_weights(net, tmp_path / "c.pt")
    with torch.no_grad():
        torch.testing.assert_close(net(images), stored(images))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_same_kind_is_loaded_as_it_is(tmp_path, kind):
    stored, net = _changed(kind, 1), _changed(kind, 2)
    torch.save(stored.state_dict(), tmp_path / "c.pt")
    load_weights(net, tmp_path / "c.pt")
    assert has_weights(net, stored.state_dict())


@pytest.mark.parametrize(("old", "new"), [("weight-norm", "new-weight-norm"), ("spectral-norm", "new-spectral-norm")])
def test_old_names_are_loaded_into_a_new_parametrization(tmp_path, old, new):
    stored, net, images = _changed(KINDS[old], 1), _changed(KINDS[new], 2), torch.rand(2, 3, 8, 8)
    torch.save(prefixed("model.", stored.state_dict()), tmp_path / "c.pt")
    load_weights(net, tmp_path / "c.pt")
    with torch.no_grad():
        torch.testing.assert_close(net(images), stored(images))


def test_a_parametrization_that_is_not_known_is_named(tmp_path):
    stored = trained()
    torch.nn.utils.parametrize.register_parametrization(stored.conv1, "weight", torch.nn.Tanh())
    torch.save(stored.state_dict(), tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"conv1\.weight is missing.*conv1\.parametrizations\.weight\.original"):
        load_weights(Net(), tmp_path / "c.pt")
