"""Training that is interrupted and goes on gives what it gives undisturbed, bit for bit."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from basis.layers import stored_layers, stored_values
from basis.swap import swap_convolutions
from pipeline.data.sources import load_dataset
from pipeline.models.digest import state_digest
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.signals import Interruption
from pipeline.stages.evaluate import evaluate
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey, Store
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from pipeline.training.selection import BestWeights, Margin
from pipeline.training.state import EpochFigures
from pipeline.training.teacher import Teacher
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import attach_fake_quantizers
from quant.rate import nearest_to_steps
from quant.stepped_training import RateControl, SteppedFakeQuantizer, attach_stepped_quantizers
from tests.support.networks import tiny_network, write_npz

SCHEDULE = Schedule(3, lr=0.02, batch_size=32)
STEPS = 9
STEP = StageKey("t", "0" * 32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_dataset(str(write_npz(tmp_path_factory.mktemp("data") / "colours.npz")))


class Asking:
    """Progress that asks to end after so many steps."""

    def __init__(self, interruption, steps):
        self.interruption, self.left = interruption, steps

    def stage(self, name):
        pass

    def track(self, description, total):
        return self

    def __enter__(self):
        def advance(steps, status):
            if "loss" in status:
                self.left -= 1
                if self.left == 0:
                    self.interruption.request()

        return advance

    def __exit__(self, *error):
        pass


def networks():
    """A network that draws random numbers in training, one of series, and two that train through their rounding."""
    dropping = nn.Sequential(*tiny_network(), nn.Dropout(0.3))
    series = swap_convolutions(tiny_network(), {"0.0": (3, 3), "1.0": (2, 2), "2.0": (2, 2)}, "cosine")
    rounded = attach_fake_quantizers(copy.deepcopy(series), IntFormat(4), get_backend("brevitas"))
    values = {name: stored_values(layer).detach().clone() for name, layer in stored_layers(series).items()}
    start = {name: nearest_to_steps(each, torch.tensor(-60, dtype=torch.int16)) for name, each in values.items()}
    stepped = attach_stepped_quantizers(copy.deepcopy(series), start, values)
    return {"dropout": dropping, "series": series, "rounded": rounded, "stepped": stepped}


@functools.cache
def teaching():
    return tiny_network(seed=1)


def trained(data, model, store=None, end_after=None, curve=None, choose=False):
    accelerator, interruption = make_accelerator("cpu"), Interruption()
    model = copy.deepcopy(model)
    progress = Asking(interruption, end_after) if end_after else None
    arguments = {"accelerator": accelerator, "seed": 3, "teacher": Teacher(teaching(), accelerator)}
    checkpoint = store.checkpoint(STEP) if store else None

    def judge(some):
        found = evaluate(some, data.test, device=accelerator.device)
        return functional.cross_entropy(found.logits.double(), found.labels, reduction="none")

    best = BestWeights(model, judge, Margin(tolerance=1.0))  # the start has no advantage
    rest = {"progress": progress, "interruption": interruption, "checkpoint": checkpoint}
    rest |= {"best": best} if choose else {}
    if any(isinstance(module, SteppedFakeQuantizer) for module in model.modules()):
        rest["rate"] = RateControl(model, lambda bits: 0.95 * bits)
    end = train(model, data.train, SCHEDULE, **arguments, **rest, on_epoch=None if curve is None else curve.append)
    return model, end


@pytest.fixture(scope="module")
def undisturbed(data):
    """Return the trained network and the final progress of uninterrupted training, for each network."""
    torch.manual_seed(11)
    return {kind: trained(data, model) for kind, model in networks().items()}


@pytest.mark.parametrize("kind", ["dropout", "series", "rounded", "stepped"])
@pytest.mark.parametrize("end_after", [1, 3, 4, STEPS - 1, STEPS])
def test_training_goes_on_where_it_ended(tmp_path, data, undisturbed, kind, end_after):
    model, store = networks()[kind], Store(tmp_path)
    whole, expected = undisturbed[kind]
    with pytest.raises(KeyboardInterrupt):
        trained(data, model, store, end_after)
    torch.manual_seed(12)
    curve = []
    again, end = trained(data, model, store, curve=curve)
    assert state_digest(again) == state_digest(whole)
    assert end.curve == expected.curve == curve
    assert [figures.epoch for figures in curve] == [1, 2, 3]
    assert not again.training


@pytest.mark.parametrize("kind", ["dropout", "rounded"])
@pytest.mark.parametrize("end_after", [2, 3, 4, STEPS])
def test_training_that_goes_on_keeps_the_same_epoch(tmp_path, data, kind, end_after):
    model, store = networks()[kind], Store(tmp_path)
    torch.manual_seed(11)
    whole, expected = trained(data, model, choose=True)
    with pytest.raises(KeyboardInterrupt):
        trained(data, model, store, end_after, choose=True)
    again, end = trained(data, model, store, choose=True)
    assert state_digest(again) == state_digest(whole)
    assert end.selection == expected.selection
    assert end.curve == expected.curve
    assert all(figures.held_out is not None for figures in end.curve)


def test_the_choice_does_not_change_the_training(data, undisturbed):
    model, end = trained(data, networks()["dropout"], choose=True)
    last, expected = undisturbed["dropout"]
    assert [figures.loss for figures in end.curve] == [figures.loss for figures in expected.curve]
    losses = [figures.held_out for figures in end.curve]
    assert end.selection.epoch == 1 + losses.index(min(losses))
    assert (state_digest(model) == state_digest(last)) == (end.selection.epoch == 3)


def test_training_that_is_interrupted_again_and_again_ends_the_same(tmp_path, data, undisturbed):
    model, store = networks()["series"], Store(tmp_path)
    for _ in range(STEPS):
        with pytest.raises(KeyboardInterrupt):
            trained(data, model, store, end_after=1)
    assert state_digest(trained(data, model, store)[0]) == state_digest(undisturbed["series"][0])


class Recorder:
    """A store whose one checkpoint only lists what is saved."""

    def __init__(self):
        self.saved = []

    def checkpoint(self, step):
        return self

    def read(self):
        return None

    def save(self, entry):
        self.saved.append((entry.metadata["epoch"], entry.metadata["batch"]))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (float("inf"), [(1, 0), (2, 0), (3, 0)]),
        (0.0, [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]),
    ],
    ids=["every epoch", "long epochs in between too"],
)
def test_what_is_kept(data, monkeypatch, seconds, expected):
    monkeypatch.setattr("pipeline.training.state.SECONDS_BETWEEN", seconds)
    recorder = Recorder()
    trained(data, networks()["series"], recorder)
    assert recorder.saved == expected


def test_a_checkpoint_of_another_network_is_not_taken(tmp_path, data, undisturbed):
    store = Store(tmp_path)
    store.checkpoint(STEP).save(Entry({"model.x": torch.ones(1)}, {"epoch": 1}))
    model = networks()["series"]
    assert state_digest(trained(data, model, store)[0]) == state_digest(undisturbed["series"][0])


def test_the_curve_has_mean_losses_and_falling_rates(undisturbed):
    _, end = undisturbed["series"]
    assert [type(figures) for figures in end.curve] == [EpochFigures] * 3
    assert all(figures.loss > 0 for figures in end.curve)
    assert end.curve[0].lr > end.curve[1].lr > end.curve[2].lr > 0
    assert end.seconds > 0


def test_training_leaves_torchs_generators_alone(data):
    model, _ = networks()["dropout"], teaching()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(data, model)
    assert torch.equal(torch.rand(3), expected)
