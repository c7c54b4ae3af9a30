"""Rounding of a whole network by gptq: nearer to its outputs than nearest rounding, in either backend's integers."""

import copy

import pytest
import torch
from torch import nn

from basis.sampling import SamplingConfig
from basis.swap import swap_convolutions
from pipeline.artifact.record import build_network, record_network
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.formats import IntFormat
from quant.network import attach_fake_quantizers, quantize_network
from tests.support.lockstep import in_shares
from tests.support.networks import tiny_network


def series():
    return swap_convolutions(tiny_network(), {"0.0": (3, 3), "1.0": (2, 2), "2.0": (2, 2)}, "cosine")


def correlated_images(seed, count=64):
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3


@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_changes_the_outputs_less_than_nearest_on_other_images(bits):
    model, format, backend = series(), IntFormat(bits), get_backend("brevitas")
    rounded = round_layers(model, correlated_images(0), format, backend, rounding="gptq").layers
    others = correlated_images(1)
    with torch.no_grad():
        outputs = model(others)
        errors = [
            (build_network(record_network(model, quantized), tiny_network())(others) - outputs).norm()
            for quantized in (
                quantize_network(model, format, backend, rounded),
                quantize_network(model, format, backend),
            )
        ]
    assert errors[0] < 0.8 * errors[1]


def test_factors_of_terms_belong_to_series_of_integers_and_lower_the_error(monkeypatch):
    def errors(rounding="gptq"):
        found = round_layers(series(), correlated_images(0), IntFormat(3), get_backend("brevitas"), rounding=rounding)
        return found, found.errors["1.0"] + found.errors["2.0"]

    found, error = errors()
    assert {name for name, values in found.layers.items() if values.terms is not None} == {"0.0", "1.0", "2.0"}
    assert all(values.terms is None for values in errors("nearest")[0].layers.values())
    monkeypatch.setattr("quant.term_factors.term_exponents", lambda c, g: torch.zeros(c.shape[2:], dtype=torch.int8))
    assert error < 0.95 * errors()[1]


def test_every_layer_is_rounded_and_the_network_is_left_alone():
    model = series()
    before = copy.deepcopy(model.state_dict())
    rounded = round_layers(model, correlated_images(0), IntFormat(4), get_backend("brevitas"), rounding="gptq").layers
    assert list(rounded) == ["0.0", "1.0", "1.2", "2.0", "5"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


class SequenceFirst(nn.Module):
    """A linear layer that sees (positions, images, features)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.second(self.first(x).flatten(2).permute(2, 0, 1)).mean(0)


@pytest.mark.parametrize(("make", "chunks"), [(series, [2, 20, 20, 10]), (SequenceFirst, [2, 20, 50])])
def test_the_float_network_in_chunks_gives_the_rounding_of_all_images_at_once(make, chunks):
    torch.manual_seed(0)
    model, images = make().eval(), correlated_images(0, count=50)

    sizes = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    def errors(**options):
        return round_layers(model, images, IntFormat(4), get_backend("brevitas"), rounding="gptq", **options).errors

    whole = errors()
    assert sizes == [2, 50, 50]  # for the sizes of rows, the rounding, and within it the float network
    assert errors(sampling=SamplingConfig(chunk_pixels=20 * 12 * 12)) == pytest.approx(whole, rel=1e-3)
    assert sizes[3:] == [2, 50, *chunks]


def test_both_backends_store_the_same_integers():
    found = [
        round_layers(series(), correlated_images(0), IntFormat(4), get_backend(n), rounding="gptq").layers
        for n in ("brevitas", "torch.ao")
    ]
    for name in found[0]:
        assert torch.equal(found[0][name].integers, found[1][name].integers)
        assert torch.equal(found[0][name].scale, found[1][name].scale)


def test_a_layer_that_is_too_large_or_never_runs_is_rounded_to_nearest():
    model, backend = series(), get_backend("brevitas")
    found = round_layers(model, correlated_images(0), IntFormat(4), backend, rounding="gptq", max_features=20)
    assert "0.0" not in found.errors
    whole = quantize_network(model, IntFormat(4), backend, found.layers)
    nearest = quantize_network(model, IntFormat(4), backend)
    assert torch.equal(whole["0.0"].integers, nearest["0.0"].integers)
    assert whole.keys() == nearest.keys()


@pytest.mark.parametrize("name", ["brevitas", "torch.ao"])
def test_qat_starts_from_the_rounded_integers(name):
    model, backend = series(), get_backend(name)
    rounded = round_layers(model, correlated_images(0), IntFormat(4), backend, rounding="gptq").layers
    started = quantize_network(attach_fake_quantizers(model, IntFormat(4), backend, rounded), IntFormat(4), backend)
    for layer, values in rounded.items():
        assert torch.equal(started[layer].integers, values.integers)


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_the_images_round_as_all_of_them(count):
    network, images, backend = series(), correlated_images(0, count=31), get_backend("brevitas")
    expected = round_layers(network, images, IntFormat(4), backend, rounding="gptq")

    def work(mine, shard):
        return round_layers(network, mine, IntFormat(4), backend, rounding="gptq", shard=shard)

    found = in_shares(count, images, work)
    for rounded in found:
        # Where sums differ in the last bit, a row may take another of two scales that are equally good.
        assert rounded.errors == pytest.approx(expected.errors, rel=0.05)
        for name, values in rounded.layers.items():
            assert torch.equal(values.integers, found[0].layers[name].integers)
            assert torch.equal(values.scale, found[0].layers[name].scale)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_qat_leaves_a_layer_without_values_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 0))
    attach_fake_quantizers(model, IntFormat(4), get_backend("brevitas"))
    assert list(quantize_network(model, IntFormat(4), get_backend("brevitas"))) == ["0"]
    assert model(torch.zeros(2, 3, 3, 3)).shape == (2, 0)


@pytest.mark.parametrize("backend", ["brevitas", "torch.ao"])
def test_qat_leaves_the_scales_of_frozen_weights_alone(backend):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    model[0].requires_grad_(False)
    attach_fake_quantizers(model, IntFormat(4), get_backend(backend))
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    assert all(parameter.requires_grad for parameter in model[1].parameters())
