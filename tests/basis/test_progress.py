"""Progress of fit and rounding: every layer once, and the steps within a layer."""

import copy

import pytest
import torch

from basis import progress
from basis.activations import fit_activations
from basis.progress import reported_to
from basis.swap import swap_convolutions
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.formats import IntFormat
from tests.support.networks import tiny_network

ORDERS = {"0.0": (3, 3), "1.0": (2, 2), "2.0": (2, 2)}


@pytest.fixture
def images():
    return torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def reports_of(work):
    """Return the layers in order, and the statuses of the steps within them."""
    layers, steps = [], []

    def advance(done, status):
        (layers if done else steps).append(status)

    with reported_to(advance):
        work()
    return layers, steps


def test_the_fit_reports_every_layer_and_its_steps(images):
    network = tiny_network()
    series = swap_convolutions(copy.deepcopy(network), ORDERS, "cosine")
    layers, steps = reports_of(lambda: fit_activations(series, network, images))
    assert layers == list(ORDERS)
    assert {status.split(",")[0] for status in steps} == set(ORDERS)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_rounding_reports_every_layer_and_its_steps(images, rounding):
    series = swap_convolutions(tiny_network(), ORDERS, "cosine")
    rounded = None

    def work():
        nonlocal rounded
        rounded = round_layers(series, images, IntFormat(4), get_backend("brevitas"), rounding=rounding)

    layers, steps = reports_of(work)
    assert layers == list(rounded.layers)
    many = [status for status in steps if status.startswith("2.0, step ")]
    assert [int(status.rsplit(" ", 1)[1]) for status in many] == list(range(1, len(many) + 1))
    assert len(many) > (3 if rounding == "gptq" else 0)


def test_nobody_needs_to_listen(images):
    with progress.layer("a"):
        progress.step()
    network = tiny_network()
    assert fit_activations(swap_convolutions(copy.deepcopy(network), ORDERS, "cosine"), network, images)


def test_reports_end_with_their_block(images):
    found = []
    with reported_to(lambda done, status: found.append((done, status))), progress.layer("a"):
        progress.step()
    with progress.layer("b"):
        progress.step()
    assert found == [(0, "a, step 1"), (1, "a")]
