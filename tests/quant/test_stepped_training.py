"""Fake quantizers with steps, the control of their bits, and trimming by the threshold."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from basis.layers import stored_values
from basis.swap import swap_convolutions
from pipeline.data.sources import load_dataset
from pipeline.runtime.device import make_accelerator
from pipeline.training.loop import parameter_groups, train
from pipeline.training.schedule import Schedule
from quant.grid import grid_values
from quant.rate import entropy_bits, nearest_to_steps
from quant.stepped_training import (
    CONTROL_PHASE,
    CONTROL_STEPS,
    FALL_PHASE,
    MAX_CHANGE,
    START_SHIFT,
    RateControl,
    SteppedFakeQuantizer,
    attach_stepped_quantizers,
    stepped_layers,
)
from tests.support.networks import tiny_network, write_npz

LOG_STEPS = {
    "0.0": torch.full((4, 4), -40.0) + torch.arange(16).view(4, 4),
    "1.0": torch.full((3, 3), -44.3),
    "1.2": torch.full((1, 1), -30.5),
    "5": torch.tensor(-51.0),
}
SKIPPED = "2.0"


def series() -> nn.Module:
    return swap_convolutions(tiny_network(), {"0.0": (4, 4), SKIPPED: (2, 2)}, "cosine").eval()


def attached() -> nn.Module:
    return attach_stepped_quantizers(series(), {name: steps.double() for name, steps in LOG_STEPS.items()})


def quantizers(model: nn.Module) -> list[SteppedFakeQuantizer]:
    return [module for module in model.modules() if isinstance(module, SteppedFakeQuantizer)]


def taken(model: nn.Module, threshold: float = 0.5) -> float:
    return sum(entropy_bits(each) for each in stepped_layers(model, threshold).values())


def assert_computes_what_is_stored(model: nn.Module) -> None:
    stored = stepped_layers(model)
    assert set(stored) == set(LOG_STEPS)
    for name, tensor in stored.items():
        assert torch.equal(stored_values(model.get_submodule(name)), tensor.dequantize()), name


def test_the_attached_network_computes_its_values_rounded_to_finer_steps():
    before, model = series(), attached()
    assert_computes_what_is_stored(model)
    for name, tensor in stepped_layers(model).items():
        exponents = (LOG_STEPS[name] + START_SHIFT).round().to(torch.int16)
        nearest = nearest_to_steps(stored_values(before.get_submodule(name)).detach(), exponents)
        assert torch.equal(tensor.exponents, exponents)
        assert torch.equal(tensor.integers, nearest.integers)
    kept = model.get_submodule(SKIPPED)
    assert torch.equal(kept.coefficients, before.get_submodule(SKIPPED).coefficients)


def test_all_gradients_pass_to_the_float_values():
    model, x = attached(), torch.randn(4, 3, 12, 12)
    plain = series()
    for name, tensor in stepped_layers(model).items():
        stored_values(plain.get_submodule(name)).data.copy_(tensor.dequantize())
    for network in (model, plain):
        functional.cross_entropy(network(x), torch.arange(4)).backward()
    conv, reference = model.get_submodule("1.0"), plain.get_submodule("1.0")
    torch.testing.assert_close(conv.parametrizations.weight.original.grad, reference.weight.grad)


def test_steps_change_values_and_what_is_stored_is_what_is_computed():
    model = attached()
    optimizer = torch.optim.SGD(parameter_groups(model, Schedule(1, lr=2.0)), 2.0)
    generator = torch.Generator().manual_seed(0)
    start = {name: tensor.integers.clone() for name, tensor in stepped_layers(model).items()}
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(8, 3, 12, 12, generator=generator)
        functional.cross_entropy(model(x), torch.arange(8) % 4).backward()
        optimizer.step()
        assert_computes_what_is_stored(model)
    assert any(not torch.equal(start[name], tensor.integers) for name, tensor in stepped_layers(model).items())


def test_values_of_any_size_are_computed_as_they_are_stored():
    quantizer = SteppedFakeQuantizer(torch.Size((2, 3, 2, 2)), torch.tensor([[-900.0, 0.0], [7.4, 900.0]]))
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-30, 1e-3, 1.0, 1e5, 1e30):
        weight = scale * torch.randn(2, 3, 2, 2, generator=generator)
        assert torch.equal(quantizer(weight), quantizer.quantized(weight).dequantize())


def test_rounded_weights_have_their_share_of_the_learning_rate():
    model = attached()
    rates = {id(p): group["lr"] for group in parameter_groups(model, Schedule(1, lr=0.1)) for p in group["params"]}
    share = SteppedFakeQuantizer.learning_rate_share
    assert rates[id(model[1][0].parametrizations.weight.original)] == pytest.approx(0.1 * share)
    assert rates[id(model[1][0].bias)] == pytest.approx(0.1)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in series().parameters())


def test_a_larger_threshold_never_gives_a_larger_integer_and_trims_the_bits():
    model = attached()
    for quantizer in quantizers(model):
        quantizer.shift += 40
    thresholds = (0.3, 0.4, 0.5, 0.6, 0.7)
    found = [stepped_layers(model, threshold) for threshold in thresholds]
    for smaller, larger in itertools.pairwise(found):
        for name, tensor in smaller.items():
            assert (larger[name].integers.abs() <= tensor.integers.abs()).all()
            assert (larger[name].integers * tensor.integers >= 0).all()
    bits = [taken(model, threshold) for threshold in thresholds]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 1.1 * bits[-1]


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_the_control_moves_the_bits_to_those_of_the_target(share):
    model = attached()
    bits, steps = share * taken(model), 200 * CONTROL_STEPS
    control = RateControl(model, lambda _: bits)
    for step in range(steps):
        control.before_step(step, steps)
    assert taken(model) == pytest.approx(bits, rel=0.03)
    assert len({float(quantizer.shift) for quantizer in quantizers(model)}) == 1


@pytest.mark.parametrize(("steps", "interval"), [(2000, CONTROL_STEPS), (391, 6), (130, 2), (55, 1)])
def test_the_control_changes_steps_little_at_a_time_and_not_at_the_end(steps, interval):
    model = attached()
    control = RateControl(model, lambda _: 1.0)
    shifts = [START_SHIFT]
    for step in range(steps):
        control.before_step(step, steps)
        shifts.append(float(quantizers(model)[0].shift))
    moved = [step for step, (a, b) in enumerate(itertools.pairwise(shifts)) if a != b]
    measured = [step for step in range(0, steps, interval) if step <= CONTROL_PHASE * steps]
    assert moved == measured[: len(moved)]  # the rest if no bits are left
    assert len(moved) == len(measured) or taken(model) < 2
    largest = max(MAX_CHANGE, -START_SHIFT / (FALL_PHASE * steps / interval - 1))
    assert max(abs(b - a) for a, b in itertools.pairwise(shifts)) <= largest + 1e-5  # float32


@pytest.mark.parametrize("steps", [55, 391, 2000])
def test_the_bits_fall_to_the_target_in_short_and_long_trainings(steps):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64))
    attach_stepped_quantizers(network, {"0": torch.tensor(-60.0)})
    network[0].parametrizations.weight[0].shift.zero_()
    bits = sum(entropy_bits(tensor) for tensor in stepped_layers(network).values())
    network[0].parametrizations.weight[0].shift.fill_(-21.0)
    control = RateControl(network, lambda _: bits)
    for step in range(steps):
        control.before_step(step, steps)
    found = sum(entropy_bits(tensor) for tensor in stepped_layers(network).values())
    assert found == pytest.approx(bits, rel=0.05)


def test_bits_start_above_the_target_and_fall():
    model = attached()
    steps, bits = 400 * CONTROL_STEPS, 0.3 * taken(model)
    control = RateControl(model, lambda _: bits)
    found = []
    for step in range(0, steps, CONTROL_STEPS):
        control.before_step(step, steps)
        found.append(taken(model) / bits)
    assert max(found[: len(found) // 4]) > 1.5
    assert found[3 * len(found) // 4 :] == pytest.approx([1.0] * (len(found) // 4), rel=0.1)


def test_the_control_is_stable_where_values_gather_at_the_thresholds():
    generator, names = torch.Generator().manual_seed(0), [str(number) for number in range(8)]
    model = swap_convolutions(
        nn.Sequential(*(nn.Conv2d(32, 32, 3) for _ in names)), dict.fromkeys(names, (3, 3)), "cosine"
    )
    model = attach_stepped_quantizers(model, {name: 16 * torch.rand(3, 3, generator=generator) for name in names})
    for name, quantizer in zip(names, quantizers(model), strict=True):
        quantizer.shift.zero_()
        (master, *_) = model.get_submodule(name).parametrizations.parameters()
        near = 0.5 + 0.05 * torch.randn(master.shape, generator=generator)
        master.data.copy_(near * grid_values(quantizer.exponents()))
    bits, steps = 0.8 * taken(model), 100 * CONTROL_STEPS
    control, found = RateControl(model, lambda _: bits), []
    for step in range(math.ceil(FALL_PHASE * steps), steps, CONTROL_STEPS):
        control.before_step(step, steps)
        found.append(taken(model))
    assert found[-10:] == pytest.approx([bits] * 10, rel=0.02)


def test_a_network_of_zeros_stays_under_control():
    model = attached()
    for name in LOG_STEPS:
        next(model.get_submodule(name).parametrizations.parameters()).data.zero_()
    control = RateControl(model, lambda _: 1000.0)
    for step in range(0, 100, CONTROL_STEPS):
        control.before_step(step, 1000)
    assert taken(model) == 0
    assert_computes_what_is_stored(model)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz")))


def trained(data, epochs: int, bits: float) -> nn.Module:
    model, schedule = attached(), Schedule(epochs, lr=0.02, batch_size=8)
    control = RateControl(model, lambda _: bits)
    train(model, data.train, schedule, accelerator=make_accelerator("cpu"), seed=0, rate=control)
    return model


def test_training_at_a_rate_ends_at_its_bits(data):
    bits = 0.4 * taken(attached())
    model = trained(data, 20, bits)
    assert taken(model) == pytest.approx(bits, rel=0.1)
    assert_computes_what_is_stored(model)


def test_training_at_a_rate_repeats(data):
    ends = [trained(data, 3, 1000.0) for _ in range(2)]
    for a, b in zip(*(end.state_dict().values() for end in ends), strict=True):
        assert torch.equal(a, b)


def test_training_without_a_rate_keeps_the_steps(data):
    model = attached()
    before = copy.deepcopy([quantizer.exponents() for quantizer in quantizers(model)])
    train(model, data.train, Schedule(1, lr=0.02, batch_size=16), accelerator=make_accelerator("cpu"), seed=0)
    assert all(torch.equal(a, q.exponents()) for a, q in zip(before, quantizers(model), strict=True))
