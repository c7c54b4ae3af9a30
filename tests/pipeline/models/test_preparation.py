"""Converting users' networks to plain modules."""

import copy
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from pipeline.errors import DataError, OptionsError
from pipeline.models.preparation import (
    check_finite,
    drop_graphs,
    fold_parametrizations,
    freeze_scripted_parts,
    initialize_lazy_modules,
    plain_copy,
    unwrapped,
    without_wrappers,
)
from tests.support.networks import tiny_network

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def names(model):
    return set(model.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda model: nn.DataParallel(nn.DataParallel(model)), torch.compile],
)
def test_wrappers_around_the_network_are_removed(wrap):
    network = tiny_network()
    assert without_wrappers(wrap(network)) is network


def test_averaged_weights_are_those_of_the_network():
    network = tiny_network()
    assert without_wrappers(AveragedModel(network, use_buffers=True)).state_dict().keys() == network.state_dict().keys()


def test_wrappers_inside_the_network_are_removed():
    network = tiny_network()
    expected = names(network)
    network[1] = nn.DataParallel(torch.compile(network[1]))
    assert names(without_wrappers(network)) == expected


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def halved(conv):
    nn.utils.parametrize.register_parametrization(conv, "weight", Halved())
    return conv


def pruned(conv):
    prune.l1_unstructured(conv, "weight", amount=0.5)
    return conv


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        halved,
        pruned,
        lambda conv: pruned(nn.utils.weight_norm(conv, "bias")),
        lambda conv: halved(parametrizations.weight_norm(conv)),
    ],
)
def test_computed_weights_become_parameters_of_the_same_function(change):
    torch.manual_seed(0)
    network = nn.Sequential(change(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 4, 1))
    network(IMAGES)  # in training mode: spectral normalization then iterates
    expected = network.eval()(IMAGES)
    folded = fold_parametrizations(network)
    assert names(folded) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert isinstance(folded[0].weight, nn.Parameter)
    assert torch.allclose(folded(IMAGES), expected, atol=1e-6)
    folded.load_state_dict(plain_copy(folded).state_dict())


def test_lazy_modules_get_their_shapes():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))
    initialize_lazy_modules(network, IMAGES)
    assert network[0].weight.shape == (4, 3, 3, 3)
    assert type(network[3]) is nn.Linear
    assert network.training
    assert float(network[1].running_mean.abs().max()) == 0


def test_what_cannot_be_copied_is_refused():
    network = tiny_network()
    network.lock = threading.Lock()
    with pytest.raises(OptionsError, match=r"Sequential.*lock"):
        plain_copy(network)


COLOURS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
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
    wanted = model(COLOURS)
    twin, stored = plain_copy(model), fold_parametrizations(plain_copy(model))
    assert torch.allclose(stored(COLOURS), wanted, atol=1e-6)
    assert {name for name, _ in stored.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not list(stored.named_buffers())
    assert torch.equal(model(COLOURS), wanted)
    assert torch.equal(twin(COLOURS), wanted)
    with torch.no_grad():
        stored[0].weight.zero_()
    assert not torch.equal(stored(COLOURS), model(COLOURS))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_network_with_a_graph_in_its_weights_is_copied():
    model = network("old weight")
    model.train()(COLOURS)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    assert torch.equal(plain_copy(model).eval()(COLOURS), model.eval()(COLOURS))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("copied", [False, True])
def test_scripted_parts_are_not_trained_and_their_copies_neither(copied):
    """A copy of a parameter that is trained there is no leaf, which no optimizer takes."""
    network = tiny_network()
    network[5] = torch.jit.trace(network[5], torch.zeros(1, 16))
    expected = network(IMAGES)
    network = copy.deepcopy(network) if copied else network
    freeze_scripted_parts(network)
    twin = plain_copy(network)
    assert all(parameter.is_leaf for parameter in twin.parameters())
    assert [name for name, parameter in twin.named_parameters() if not parameter.requires_grad] == [
        "5.weight",
        "5.bias",
    ]
    assert torch.equal(twin(IMAGES), expected)


def test_values_that_are_not_finite_are_named():
    network = tiny_network()
    check_finite(network, "the network")
    network[2][0].weight.data[3, 0, 1, 1] = float("inf")
    with pytest.raises(DataError, match=r"the network is damaged: 2\.0\.weight.*not finite"):
        check_finite(network, "the network")


@pytest.mark.parametrize("reference", [weakref.proxy, lambda module: module])
def test_a_part_that_refers_to_the_whole_is_refused(reference):
    network = tiny_network()
    network[0].parent = reference(network)
    with pytest.raises(OptionsError, match=r"'0\.parent'.*weakref\.ref"):
        unwrapped(network)


def test_graphs_are_dropped_and_what_modules_share_stays_shared():
    network, shared = tiny_network(), {}
    network[0].maps = network[1].maps = shared
    shared["own"], shared["last"] = shared, [network(IMAGES)]
    network[1].pair = (network(IMAGES), 3)
    drop_graphs(network)
    copy.deepcopy(network)
    assert network[0].maps is network[1].maps is shared
    assert network[1].pair[1] == 3
