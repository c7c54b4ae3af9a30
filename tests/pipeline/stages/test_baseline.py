"""The uncompressed network's weights: a file, the builder's own, or a training."""

import logging
from pathlib import Path

import pytest
import torch

from pipeline.errors import DataError, OptionsError
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import initial_network
from pipeline.stages.context import make_context
from tests.support.networks import tiny_network
from tests.support.program import call_program
from tests.support.report_schema import read_report

TRAINED = """
import torch
from tiny_net import make


def trained(num_classes=4):
    net = make(num_classes)
    net.load_state_dict(torch.load("trained.pt"))
    return net
"""


@pytest.fixture
def place(here: Path) -> Path:
    (here / "trained_net.py").write_text(TRAINED)
    torch.save(tiny_network(seed=5).state_dict(), "trained.pt")
    return here


def _initial(**options: object):
    chosen = Options(config="3,2,2", data="colours.npz", **{"model": "trained_net:trained", **options})
    context = make_context(chosen, make_accelerator("cpu"), SilentProgress(), Interruption())
    return initial_network(context)


def _equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_builtin_keeps_the_weights_of_the_builder(place, caplog):
    found = _initial(weights="builtin")
    assert (found.job, found.origin, found.model.training) == (None, "builtin", False)
    assert _equal(found.model, tiny_network(seed=5))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


MASKED = """
import torch
from torch import nn
from tiny_net import make


class Masked(nn.Sequential):
    def __init__(self, num_classes=4):
        super().__init__(*make(num_classes))
        self.mask = torch.rand(3, 1, 1)

    def forward(self, x):
        return super().forward(x * self.mask)
"""


@pytest.mark.parametrize(("model", "warned"), [("masked_net:Masked", True), ("tiny_net:make", False)])
def test_a_checkpoint_of_a_network_that_draws_other_values_is_a_warning(place, model, warned, caplog):
    """The mask of seed 0 stood in place of the one of the training, without a word."""
    (place / "masked_net.py").write_text(MASKED)
    _initial(model=model, weights="trained.pt")
    assert ("--weights trained.pt: the network masked_net:Masked draws mask" in caplog.text) is warned


@pytest.mark.parametrize("seed", [0, 3])
def test_builtin_random_weights_follow_from_the_seed(place, seed, caplog):
    found = _initial(weights="builtin", model="tiny_net:make", seed=seed)
    assert _equal(found.model, tiny_network(seed=seed))
    assert all(word in caplog.text for word in ("WARNING", "builtin", "tiny_net:make", "random", f"seed {seed}"))


def test_auto_trains_anew_and_names_builtin(place, caplog):
    found = _initial()
    assert found.job is not None
    assert "--weights builtin" in found.origin
    assert all(word in caplog.text for word in ("WARNING", "trained_net:trained", "--weights builtin", "10"))


def test_auto_trains_random_weights_without_a_warning(place, caplog):
    found = _initial(model="tiny_net:make")
    assert found.job is not None
    assert "builtin" not in found.origin + caplog.text


def test_a_checkpoint_with_several_weights_is_named_with_its_key(place):
    state = tiny_network(seed=6).state_dict()
    torch.save({"model": state, "model_ema": tiny_network(seed=7).state_dict()}, "several.pt")
    assert _initial(weights="several.pt").origin == "checkpoint several.pt, model"
    found = _initial(weights="several.pt", weights_key="model_ema")
    assert found.origin == "checkpoint several.pt, model_ema"
    assert _equal(found.model, tiny_network(seed=7))
    assert _initial(weights="trained.pt").origin == "checkpoint trained.pt"
    with pytest.raises(DataError, match=r"--weights-key ema.*model.*model_ema"):
        _initial(weights="several.pt", weights_key="ema")


@pytest.mark.parametrize("weights", [None, "auto", "builtin", "IMAGENET1K_V1"])
def test_a_key_needs_a_checkpoint_file(weights):
    with pytest.raises(OptionsError, match=r"--weights-key.*model_ema.*checkpoint file"):
        Options(config="3,2,2", weights=weights, weights_key="model_ema")


def test_a_key_is_part_of_the_command():
    options = Options(config="3,3,2,2", weights="a.pt", weights_key="state_dict.student")
    assert "--weights a.pt --weights-key state_dict.student" in options.command()


def test_the_command_reports_the_weights(place):
    words = ("--config", "3,2,2", "--bits", "4", "--epochs", "0", "--data", "colours.npz", "--weights", "builtin")
    done = call_program(place, *words, "--model", "trained_net:trained", "--out", "builtin")
    assert done.returncode == 0, done.stderr
    assert read_report(place / "builtin")["run"]["weights"] == "builtin"
    assert not [stage for stage in read_report(place / "builtin")["run"]["stages"] if "training" in stage["name"]]
    keyed = ("--weights", "trained.pt", "--weights-key", "ema")
    plan = call_program(place, *words[:-2], *keyed, "--model", "trained_net:trained", "--out", "no", "--dry-run")
    assert plan.returncode == 4
    assert "--weights-key ema" in plan.stderr.splitlines()[-1]
