"""The estimated memory of a run, which the plan shows."""

import re

from torch import nn

from basis.sampling import DEFAULT_SAMPLING
from pipeline.options.options import Options
from pipeline.stages.activation_memory import sample_bytes, weight_bytes
from pipeline.stages.dry_run import plan_text
from quant.float_outputs import ROW_BYTES
from tests.support.networks import tiny_network


def test_the_fit_counts_its_layers_and_the_rounding_its_limit():
    network, shape = tiny_network(), (3, 12, 12)
    every = {"0.0": 144 * 8, "1.0": 144 * 8, "1.2": 144 * 12, "2.0": 36 * 16, "5": 4}  # outputs of an image
    assert sample_bytes(network, ["0.0"], shape, 100) == 100 * 4 * sum(every.values())
    wide = nn.Sequential(nn.Conv2d(3, 512, 3, padding=1), nn.Conv2d(512, 2048, 1))
    rows = DEFAULT_SAMPLING.positions * 4
    assert sample_bytes(wide, [], (3, 32, 32), 64) == rows * 2048 > ROW_BYTES, "one layer is never divided"
    assert sample_bytes(wide, ["0", "1"], (3, 32, 32), 64) == rows * (512 + 2048)


def test_every_width_adds_copies_of_the_weights():
    network = nn.Linear(1000, 100, bias=False)
    assert weight_bytes(network, 2) - weight_bytes(network, 1) == 5 * 400_000
    assert weight_bytes(network, 1) == 17 * 400_000


def test_the_plan_adds_the_parts_up(here):
    options = Options(config="3,2,2", bits=4, model="tiny_net:make", data="colours.npz", epochs=1, batch_size=8)
    (line,) = (line for line in plan_text(options).splitlines() if line.startswith("memory"))
    peak, *parts = (float(number) for number in re.findall(r"([\d.]+) GB", line))
    assert abs(peak - sum(parts[:4])) < 0.1
    assert "training step of 8 images" in line


def test_a_plan_without_training_has_no_step(here):
    options = Options(config="3,2,2", bits=4, model="tiny_net:make", data="colours.npz", weights="builtin", epochs=0)
    plan = plan_text(options)
    assert "copies of the weights" in plan
    assert "training step" not in plan
