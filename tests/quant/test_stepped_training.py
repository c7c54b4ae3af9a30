"""Fake quantizers between integers, their annealing, the price of their bits, and trimming by the threshold."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional

from basis.layers import stored_layers, stored_values
from basis.swap import swap_convolutions
from pipeline.data.sources import load_dataset
from pipeline.runtime.device import make_accelerator
from pipeline.training.loop import parameter_groups, train
from pipeline.training.schedule import Schedule
from quant.grid import grid_values
from quant.rate import entropy_bits, nearest_to_steps
from quant.stepped import SteppedTensor
from quant.stepped_training import (
    ANNEALED,
    CONTROL_STEPS,
    LAST_TEMPERATURE,
    LEAST_LEVEL,
    START_PRICE,
    RateControl,
    SteppedFakeQuantizer,
    attach_stepped_quantizers,
    stepped_layers,
)
from tests.support.networks import tiny_network, write_npz

EXPONENTS = {
    "0.0": torch.full((4, 4), -60) + torch.arange(16).view(4, 4),
    "1.0": torch.full((3, 3), -64),
    "1.2": torch.full((1, 1), -50),
    "5": torch.tensor(-71),
}
SKIPPED = "2.0"


def series() -> nn.Module:
    return swap_convolutions(tiny_network(), {"0.0": (4, 4), SKIPPED: (2, 2)}, "cosine").eval()


def uncompressed() -> dict[str, torch.Tensor]:
    layers = stored_layers(series())
    return {name: stored_values(layers[name]).detach() for name in EXPONENTS}


def rounded() -> dict[str, SteppedTensor]:
    """Integers of an error-compensated kind: up to a step from the values."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, values in uncompressed().items():
        exponents = EXPONENTS[name].to(torch.int16)
        noise = torch.rand(values.shape, generator=generator) - 0.5
        found[name] = SteppedTensor((values / grid_values(exponents) + noise).round().to(torch.int32), exponents)
    return found


def attached() -> nn.Module:
    return attach_stepped_quantizers(series(), rounded(), uncompressed())


def quantizers(model: nn.Module) -> list[SteppedFakeQuantizer]:
    return [module for module in model.modules() if isinstance(module, SteppedFakeQuantizer)]


def logits(model: nn.Module, name: str) -> nn.Parameter:
    return next(model.get_submodule(name).parametrizations.parameters())


def taken(model: nn.Module, threshold: float = 0.0) -> float:
    return sum(entropy_bits(each) for each in stepped_layers(model, threshold).values())


def assert_computes_what_is_stored(model: nn.Module) -> None:
    stored = stepped_layers(model)
    assert set(stored) == set(EXPONENTS)
    for name, tensor in stored.items():
        assert torch.equal(stored_values(model.get_submodule(name)), tensor.dequantize()), name


def test_values_start_between_their_integer_and_the_neighbour_towards_the_uncompressed_value():
    model = attached()
    for name, start in rounded().items():
        found = stored_values(model.get_submodule(name)).detach() / grid_values(start.exponents)
        distance = uncompressed()[name] / grid_values(start.exponents) - start.integers
        share = (0.5 * distance.abs()).clamp(0.01, 0.99)
        torch.testing.assert_close(found, start.integers + share * distance.sign(), atol=1e-4, rtol=1e-4)
        near = distance.abs() < 0.99
        assert torch.equal(stepped_layers(model)[name].integers[near], start.integers[near])
    kept = model.get_submodule(SKIPPED)
    assert torch.equal(kept.coefficients, series().get_submodule(SKIPPED).coefficients)


def test_gradients_are_those_of_the_value_between_the_integers():
    model, x = attached(), torch.randn(4, 3, 12, 12)
    plain = series()
    for name in EXPONENTS:
        stored_values(plain.get_submodule(name)).data.copy_(stored_values(model.get_submodule(name)))
    for network in (model, plain):
        functional.cross_entropy(network(x), torch.arange(4)).backward()
    for name in ("1.0", "0.0"):
        start, share = rounded()[name], torch.sigmoid(logits(model, name).detach())
        towards = (uncompressed()[name] / grid_values(start.exponents) - start.integers).sign()
        gradient = stored_layers(plain)[name]
        expected = next(gradient.parameters()).grad * towards * share * (1 - share) * grid_values(start.exponents)
        torch.testing.assert_close(logits(model, name).grad, expected, atol=1e-7, rtol=1e-4)


def test_annealed_values_are_what_is_stored_and_never_leave_the_two_neighbours():
    model = attached()
    control, optimizer = RateControl(model, lambda bits: bits), torch.optim.Adam(model.parameters(), 0.5)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        control.before_step(step, 20)
        optimizer.zero_grad()
        x = torch.randn(8, 3, 12, 12, generator=generator)
        (functional.cross_entropy(model(x), torch.arange(8) % 4) + control.loss()).backward()
        optimizer.step()
    assert_computes_what_is_stored(model)
    moved = 0
    for name, start in rounded().items():
        distance = uncompressed()[name] / grid_values(start.exponents) - start.integers
        step = stepped_layers(model)[name].integers - start.integers
        assert ((step == 0) | (step == torch.where(distance < 0, -1, 1))).all()
        moved += int((step != 0).sum())
    assert moved > 100


def test_the_temperature_falls_from_one_and_values_are_integers_at_the_end():
    model, steps = attached(), 200
    control, found = RateControl(model, lambda bits: bits), []
    for step in range(steps):
        control.before_step(step, steps)
        (temperature,) = {quantizer.temperature for quantizer in quantizers(model)}
        found.append(temperature)
    annealed = round(ANNEALED * steps)
    assert found[0] == 1
    assert found[annealed - 1] == pytest.approx(LAST_TEMPERATURE, rel=0.05)
    assert all(later < sooner for sooner, later in itertools.pairwise(found[:annealed]))
    assert set(found[annealed:]) == {0}
    assert_computes_what_is_stored(model)


def test_a_training_of_a_single_step_ends_with_integers():
    model = attached()
    control = RateControl(model, lambda bits: bits)
    control.before_step(0, 1)
    control.end()
    assert_computes_what_is_stored(model)


def test_logits_have_their_share_of_the_learning_rate_and_no_decay():
    model = attached()
    groups = parameter_groups(model, Schedule(1, lr=0.1, weight_decay=0.01))
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    share = SteppedFakeQuantizer.learning_rate_share
    assert found[id(logits(model, "1.0"))] == (pytest.approx(0.1 * share), 0)
    assert found[id(model[1][0].bias)] == (pytest.approx(0.1), 0)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in series().parameters())


def test_the_price_is_that_of_the_bits_by_the_term():
    model = attached()
    control = RateControl(model, lambda bits: bits)
    quantizers(model)[0].price.fill_(2.0)
    added = total = 0.0
    for name, start in rounded().items():
        integers = start.integers.flatten(0, 1).flatten(1) if start.exponents.ndim else start.integers.reshape(-1, 1)
        towards = uncompressed()[name] / grid_values(start.exponents) - start.integers
        other = (start.integers + torch.where(towards < 0, -1, 1)).reshape(integers.shape)
        share = torch.sigmoid(logits(model, name).detach()).reshape(integers.shape)
        for column, neighbours, part in zip(integers.T.tolist(), other.T.tolist(), share.T.tolist(), strict=True):
            counts = Counter(column)
            bits = {value: math.log2(len(column) / count) for value, count in counts.items()}
            rare = math.log2(len(column)) + 1
            total += sum(bits[value] for value in column)
            moves = zip(column, neighbours, part, strict=True)
            added += sum(h * (bits.get(near, rare) - bits[value]) for value, near, h in moves)
    assert float(control.loss().detach()) == pytest.approx(2.0 * added / total, rel=1e-3)


def test_a_larger_threshold_moves_fewer_values_that_take_bits_and_trims_the_bits():
    model, start = attached_wide()
    thresholds = (-1.0, -0.5, 0.0, 0.5, 1.0, 4.0)
    found = [stepped_layers(model, threshold) for threshold in thresholds]
    for quantizer, (name, layer) in zip(quantizers(model), start.items(), strict=True):
        moved = [each[name].integers != layer.integers for each in found]
        for sooner, later in itertools.pairwise(moved):
            takes = quantizer.extra_bits > 0
            assert not (later & ~sooner & takes).any()
            assert not (sooner & ~later & ~takes).any()
    bits = [taken(model, threshold) for threshold in thresholds]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 1.03 * bits[-1]


@pytest.mark.parametrize(("wanted", "rises"), [(0.9, True), (1.1, False)])
def test_the_price_rises_while_there_are_too_many_bits(wanted, rises):
    model = attached()
    control = RateControl(model, lambda bits: wanted * bits)
    prices = [0.0]
    for step in range(10 * CONTROL_STEPS):
        control.before_step(step, 10_000)
        prices.append(float(quantizers(model)[0].price))
    changed = [step for step, (a, b) in enumerate(itertools.pairwise(prices)) if a != b]
    assert changed == list(range(CONTROL_STEPS, 10 * CONTROL_STEPS, CONTROL_STEPS))
    assert (prices[-1] > prices[CONTROL_STEPS + 1] > START_PRICE * LEAST_LEVEL) == rises


@pytest.mark.parametrize(("losses", "level"), [((3.0, 1.0), 2.0), ((0.1, 0.1), LEAST_LEVEL)])
def test_the_first_price_depends_on_the_losses_before_it(losses, level):
    model = attached()
    control = RateControl(model, lambda bits: bits)
    for step in range(CONTROL_STEPS + 1):
        control.before_step(step, 10_000)
        control.after_step(step, 10_000, losses[step % 2])
    mean = level if level == LEAST_LEVEL else sum(losses[step % 2] for step in range(CONTROL_STEPS)) / CONTROL_STEPS
    assert float(quantizers(model)[0].price) == pytest.approx(START_PRICE * mean)


def test_a_network_of_zeros_stays_under_control():
    zeros = {name: torch.zeros_like(values) for name, values in uncompressed().items()}
    integers = {name: SteppedTensor(zeros[name].to(torch.int32), rounded()[name].exponents) for name in zeros}
    model = attach_stepped_quantizers(series(), integers, zeros)
    control = RateControl(model, lambda _: 1000.0)
    for step in range(0, 1000, CONTROL_STEPS):
        control.before_step(step, 1000)
    assert torch.isfinite(control.loss())
    control.end()
    assert taken(model) == 0
    assert_computes_what_is_stored(model)


def wide(data=None) -> nn.Module:
    """A network whose terms have a thousand values each; with data, it is trained."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Conv2d(i, 32, 3), nn.BatchNorm2d(32), nn.ReLU()) for i in (3, 32))
    network = nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    model = swap_convolutions(network, {"0.0": (3, 3), "1.0": (3, 3)}, "cosine").eval()
    if data is not None:
        train(model, data.train, Schedule(6, lr=0.05, batch_size=8), accelerator=make_accelerator("cpu"), seed=0)
    return model


def attached_wide(data=None) -> tuple[nn.Module, dict[str, SteppedTensor]]:
    """Return the network, and its layers rounded to the nearest with about two bits for each value."""
    model, start = wide(data), {}
    values = {name: stored_values(layer).detach().clone() for name, layer in stored_layers(model).items()}
    for name, each in values.items():
        exponents = torch.full(each.shape[2:], round(16 * math.log2(float(each.std())))).to(torch.int16)
        start[name] = nearest_to_steps(each, exponents)
    return attach_stepped_quantizers(model, start, values), start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz")))


def trained(model: nn.Module, data, epochs: int, bits: float) -> nn.Module:
    schedule, control = Schedule(epochs, lr=0.003, batch_size=8), RateControl(model, lambda _: bits)
    train(model, data.train, schedule, accelerator=make_accelerator("cpu"), seed=0, rate=control)
    return model


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_training_at_a_rate_ends_at_its_bits(data, share):
    model, start = attached_wide(data)
    bits = share * sum(map(entropy_bits, start.values()))
    assert taken(trained(model, data, 12, bits)) == pytest.approx(bits, rel=0.01)


def test_normalizations_keep_their_statistics(data):
    model, before = trained(attached(), data, 1, 1000.0), series()
    for name, module in before.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(model.get_submodule(name).running_mean, module.running_mean)
            assert not torch.equal(model.get_submodule(name).weight, module.weight)
    assert_computes_what_is_stored(model)


def test_training_at_a_rate_repeats(data):
    ends = [trained(attached(), data, 2, 1000.0) for _ in range(2)]
    for a, b in zip(*(end.state_dict().values() for end in ends), strict=True):
        assert torch.equal(a, b)


def test_layers_that_share_a_weight_share_its_quantizer():
    first = nn.Conv2d(4, 4, 3, padding=1)
    second = nn.Conv2d(4, 4, 3, padding=1)
    second.weight = first.weight
    values, exponents = first.weight.detach().clone(), torch.full((3, 3), -50, dtype=torch.int16)
    start = SteppedTensor((values / grid_values(exponents)).round().to(torch.int32), exponents)
    model = attach_stepped_quantizers(nn.Sequential(first, second), {"0": start}, {"0": values})
    assert torch.equal(model[0].weight, model[1].weight)
    assert len({id(quantizer) for quantizer in quantizers(model)}) == 1
