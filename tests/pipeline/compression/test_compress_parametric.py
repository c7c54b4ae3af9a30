"""``compress`` with parametric families."""

import copy

import pytest
import torch

from basis.parametric.conv import ParametricConv2d
from pipeline import compress, load
from pipeline.errors import OptionsError
from tests.pipeline.compression.networks import difference, images, seeded

X = images()


@pytest.mark.parametrize("basis", ["fracsrf", "fractional"])
def test_the_network_is_that_of_the_file(tmp_path, basis):
    result = compress(seeded(), X, basis=basis, bits=8)
    loaded = load(result.save(tmp_path / "a.safetensors"), network=lambda: seeded(seed=3))
    with torch.no_grad():
        assert torch.equal(loaded(X), result.network(X))
    layers = {each.name: each for each in result.layers}
    assert [each.status for each in layers.values()] == ["compressed"] * 3 + ["kept"]
    assert [each.order for each in layers.values()] == [None] * 4
    assert all(0 < each.fit_error < 2 for name, each in layers.items() if name != "head")
    assert [each.rounding_error is None for each in layers.values()] == [True, True, True, False]


def test_training_brings_the_outputs_nearer_and_the_result_can_be_rounded_later():
    original, x = seeded(), images(128)
    fitted = compress(original, x, basis="fractional")
    trained = compress(original, x, basis="fractional", epochs=6, batch_size=16)
    assert isinstance(trained.network.stem, ParametricConv2d)
    assert difference(trained.network, original) < difference(fitted.network, original)
    rounded = compress(copy.deepcopy(trained.network), x, bits=6)
    assert difference(rounded.network, trained.network) < 0.5
    assert [each.reason for each in rounded.layers[:3]] == ["uncompressed row"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bits": 4, "fit": "activations"}, r"compress: fit: got activations with basis fracsrf.*allowed: weights"),
        ({"bits": 4, "rounding": "gptq"}, r"rounding: got gptq with basis fracsrf"),
        ({"target_mb": 0.01}, r"basis: got fracsrf with target_mb"),
        ({"bits": 4, "config": 3}, r"config: got '3,3,3' with basis fracsrf, which has no orders"),
        ({"bits": 4, "config": "dense"}, r"config: got 'dense' with basis fracsrf; allowed: no config"),
    ],
)
def test_what_nothing_would_read_is_refused(arguments, words):
    with pytest.raises(OptionsError, match=words):
        compress(seeded(), X, basis="fracsrf", **arguments)


def test_a_network_without_filters_needs_another_basis():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 4))
    with pytest.raises(OptionsError, match=r"no spatial convolution.*'dense'"):
        compress(network, X, basis="fracsrf", bits=4)
