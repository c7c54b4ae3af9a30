"""Whole small networks rounded to a number of bits: all kinds of layers, large ones, unused ones, and ranks."""

import copy

import pytest
import torch
from torch import nn

from basis.activations import LayerwiseFit, layer_seeds
from basis.layers import stored_tensor_name, stored_values
from basis.original_outputs import original_outputs
from basis.sampling import DEFAULT_SAMPLING
from basis.shard import CalibrationShard
from basis.swap import swap_convolutions
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import PREDICTION_VALUES, LayerMeasurement, RatePlan, entropy_bits
from quant.rate_rounding import RoundedNetwork, round_network
from tests.support.lockstep import in_shares


class Mixed(nn.Module):
    """A depthwise and a grouped convolution in a residual sum, linear layers on maps, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.grouped = nn.Conv2d(16, 16, 1, groups=2)
        self.wide = nn.Linear(16, 24)
        self.narrow = nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)
        self.never = nn.Conv2d(3, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.grouped(torch.relu(self.depthwise(x))))
        rows = x.permute(0, 2, 3, 1)
        rows = rows + self.narrow(torch.relu(self.wide(rows)))
        return 10 * self.head(rows.mean((1, 2)))


RUNNING = ["stem", "depthwise", "grouped", "wide", "narrow", "head"]
ORDERS = {"stem": (3, 3), "depthwise": (4, 5)}


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def series(original: nn.Module) -> nn.Module:
    return swap_convolutions(copy.deepcopy(original), ORDERS, "cosine").eval()


@pytest.fixture(scope="module")
def recorded(original, images) -> OriginalPass:
    return OriginalPass.record(series(original), original, images)


@pytest.fixture(scope="module")
def measurements(original, recorded):
    return measure_layers(series(original), recorded)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if stored_tensor_name(module)}


def values_count(model: nn.Module) -> int:
    return sum(stored_values(layer).numel() for layer in layers_of(model).values())


def bits_of(rounded: RoundedNetwork) -> float:
    return sum(entropy_bits(rounded.layers[name]) for name in rounded.used)


def rounded_at(
    model: nn.Module, original: OriginalPass, measurements: dict[str, LayerMeasurement], bits: float
) -> RoundedNetwork:
    return round_network(model, original, RatePlan.of(model, measurements), bits)


def divergence(model: nn.Module, original: nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        wanted, found = original(images).log_softmax(1), model(images).log_softmax(1)
    return float((wanted.exp() * (wanted - found)).sum(1).mean())


def test_all_layers_that_run_are_measured_in_their_order(measurements):
    assert list(measurements) == RUNNING
    assert {name: tuple(each.costs.shape) for name, each in measurements.items()} == {
        "stem": (3, 3),
        "depthwise": (4, 5),
        "grouped": (1, 1),
        "wide": (),
        "narrow": (),
        "head": (),
    }
    assert all(bool((each.costs > 0).all()) for each in measurements.values())


def test_a_large_layer_that_compensation_changes_much_takes_its_bits():
    """Correlated inputs: at the steps for rounding to nearest, the integers take 6 % more bits."""
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(768, 700, bias=False)), torch.randn(64, 1, 16, 16)
    images = images.repeat(1, 3, 1, 1) + 0.1 * torch.randn(64, 3, 16, 16)
    assert values_count(network) > PREDICTION_VALUES
    original, wanted = OriginalPass.record(network, network, images), 1.5 * values_count(network)
    rounded = rounded_at(network, original, measure_layers(network, original), wanted)
    assert bits_of(rounded) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("per_value", [0.7, 1.5, 3.0, 6.0])
def test_a_network_takes_about_its_bits_and_holds_its_integers(original, images, recorded, measurements, per_value):
    model = series(original)
    before = copy.deepcopy(model.state_dict())
    wanted = per_value * values_count(model)
    rounded = rounded_at(model, recorded, measurements, wanted)
    assert bits_of(rounded) == pytest.approx(wanted, rel=0.08)  # small layers: one step of the grid is some percent
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, layer in layers_of(rounded.model).items():
        if name in RUNNING:
            assert torch.equal(stored_values(layer), rounded.layers[name].dequantize())
    assert list(rounded.layers) == list(layers_of(model))
    assert list(rounded.used) == list(rounded.errors) == RUNNING


def test_more_bits_are_closer_to_the_original(original, images, recorded, measurements):
    model = series(original)
    ends = [
        rounded_at(model, recorded, measurements, bits * values_count(model)).model for bits in (0.5, 1.5, 3.0, 8.0)
    ]
    found = [divergence(end, original, images) for end in ends]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.05 * found[0]


def test_a_repeated_rounding_is_the_same_and_the_global_generator_stays(original, images, recorded, measurements):
    state, model = torch.random.get_rng_state(), series(original)
    fresh = OriginalPass.record(model, original, images)
    again = measure_layers(model, fresh)
    assert {name: each.costs.tolist() for name, each in again.items()} == {
        name: each.costs.tolist() for name, each in measurements.items()
    }
    first, second = (rounded_at(model, source, measurements, 5000.0) for source in (recorded, fresh))
    for name, tensor in first.layers.items():
        assert torch.equal(tensor.integers, second.layers[name].integers)
        assert torch.equal(tensor.exponents, second.layers[name].exponents)
    assert first.errors == second.errors
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_bits_leave_almost_only_zeros_and_the_mean_outputs(original, images, recorded, measurements):
    rounded = rounded_at(series(original), recorded, measurements, 0.0)
    assert bits_of(rounded) < 0.1 * values_count(original)
    with torch.no_grad():
        assert rounded.model(images).isfinite().all()
        torch.testing.assert_close(rounded.model(images).mean(0), original(images).mean(0), atol=0.2, rtol=0)


def test_a_layer_that_never_runs_keeps_its_values_up_to_whole_steps(original, recorded, measurements):
    rounded = rounded_at(series(original), recorded, measurements, 5000.0)
    assert "never" not in measurements
    assert "never" not in rounded.used
    stored, weight = rounded.layers["never"], original.never.weight
    assert torch.equal(stored.integers, weight.round().to(torch.int32))
    assert int(stored.exponents) == 0


def test_layers_without_a_hessian_are_rounded_to_the_nearest(original, images):
    model = series(original)
    recorded = OriginalPass.record(model, original, images, max_features=20)
    assert set(RUNNING) - recorded.seeds.keys() == {"stem", "narrow"}
    measurements = measure_layers(model, recorded)
    assert set(measurements) == set(RUNNING)
    wanted = 3.0 * values_count(model)
    rounded = rounded_at(model, recorded, measurements, wanted)
    assert bits_of(rounded) == pytest.approx(wanted, rel=0.06)
    for name in ("stem", "narrow"):
        values, tensor = stored_values(layers_of(model)[name]), rounded.layers[name]
        steps = 2.0 ** (tensor.exponents.double() / 16)
        assert ((tensor.dequantize() - values).abs() <= 0.5001 * steps).all()
        assert torch.equal(stored_values(layers_of(rounded.model)[name]), tensor.dequantize())
    assert divergence(rounded.model, original, images) < 0.02


def test_ranks_round_to_the_same_integers(original, images, measurements):
    def work(mine: torch.Tensor, shard: CalibrationShard) -> RoundedNetwork:
        model, own = series(original), copy.deepcopy(original)
        return rounded_at(model, OriginalPass.record(model, own, mine, shard=shard), measurements, 5000.0)

    first, second = in_shares(2, images, work)
    for name, tensor in first.layers.items():
        assert torch.equal(tensor.integers, second.layers[name].integers)


def test_a_network_of_zeros_stays_zero(original, images):
    empty = copy.deepcopy(original)
    for parameter in empty.parameters():
        parameter.data.zero_()
    model = series(empty)
    recorded = OriginalPass.record(model, empty, images)
    rounded = rounded_at(model, recorded, measure_layers(model, recorded), 1000.0)
    assert not any(tensor.integers.any() for tensor in rounded.layers.values())
    with torch.no_grad():
        assert not rounded.model(images).any()


def fitted(model, original, images, constrain=None):
    shard = CalibrationShard.whole(len(images))
    seeds = layer_seeds(RUNNING, 0)
    outputs = original_outputs(original, seeds, images, shard, DEFAULT_SAMPLING, additions=True)
    with torch.no_grad():
        return LayerwiseFit(model, outputs, seeds, shard, DEFAULT_SAMPLING, ridge=1e-3, constrain=constrain).run(images)


def test_a_constraint_that_changes_nothing_leaves_the_fit_as_it_is(original, images):
    plain, constrained = series(original), series(original)
    for model in (plain, constrained):
        model.stem.coefficients.data.mul_(0.9)
    seen = []

    def constrain(name, statistics, columns, absorbs):
        seen.append((name, absorbs))
        return columns

    assert fitted(plain, original, images) == fitted(constrained, original, images, constrain)
    for a, b in zip(plain.parameters(), constrained.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {name for name, _ in seen} == set(RUNNING)
    assert all(absorbs for _, absorbs in seen)


def test_what_a_constraint_returns_is_stored_and_measured(original, images):
    model = series(original)

    def constrain(name, statistics, columns, absorbs):
        return torch.zeros_like(columns) if name == "wide" else columns

    errors = fitted(model, original, images, constrain)
    assert not model.wide.weight.any()
    assert not model.wide.bias.any()
    assert errors["wide"] == pytest.approx(1.0)
    assert errors["stem"] < 0.01


def test_linear_layers_on_maps_are_fitted_back_to_their_outputs(original, images):
    model = copy.deepcopy(original)
    model.wide.weight.data.add_(0.1 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))
    errors = fitted(model, original, images)
    assert errors["wide"] < 0.01
    torch.testing.assert_close(model.wide.weight, original.wide.weight, atol=0.02, rtol=0)


class Attention(nn.Module):
    """Attention reads the weight of its output layer without running the layer; ``spare`` has no effect."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 4, stride=4), nn.MultiheadAttention(16, 2, batch_first=True)
        self.head, self.spare = nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_a_layer_that_does_not_run_keeps_a_weight_that_the_network_reads():
    torch.manual_seed(0)
    network, images = Attention().eval(), torch.randn(32, 3, 16, 16)
    original = OriginalPass.record(network, network, images)
    rounded = rounded_at(network, original, measure_layers(network, original), 6 * 1000)
    weight, stored = network.attention.out_proj.weight.detach(), rounded.layers["attention.out_proj"]
    assert float((stored.dequantize() - weight).norm() / weight.norm()) < 0.02
    assert torch.equal(rounded.model.attention.out_proj.weight, stored.dequantize())
    assert {"attention.out_proj", "head"} <= set(rounded.used)
    assert "spare" not in rounded.used
    assert not rounded.layers["spare"].integers.any()
