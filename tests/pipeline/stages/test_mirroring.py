"""Training mirrors images only where the uncompressed network knows mirror images."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.sources import load_dataset
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import make_baseline
from pipeline.stages.context import RunContext
from pipeline.stages.mirroring import MIRROR_LOSS, Mirroring, mirroring_once, stored_mirroring
from pipeline.store.store import Store
from pipeline.tracking import NullTracker
from tests.support.networks import tiny_network, write_npz
from tests.support.program import call_program
from tests.support.report_schema import read_report

SIDE = """
import torch
from torch import nn


class Side(nn.Module):
    \"\"\"Class 0 is bright on the left, and class 1 on the right.\"\"\"

    def __init__(self, num_classes=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        nn.init.constant_(self.conv.weight, 0.1)
        self.linear = nn.Linear(4, 2)
        self.linear.weight.data = torch.tensor([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]])

    def forward(self, x):
        return self.linear(nn.functional.adaptive_avg_pool2d(self.conv(x), (1, 2)).flatten(1))
"""


def write_sides(path, count=80):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    images = generator.integers(0, 90, (count, 12, 12, 3))
    for image, label in zip(images, labels, strict=True):
        image[:, 6 * label : 6 * label + 6] += 120
    x, y = images.astype(np.uint8), labels.astype(np.uint8)
    np.savez(path, x_train=x[20:], y_train=y[20:], x_test=x[:20], y_test=y[:20])
    return path


def context_of(data, folder, **options) -> RunContext:
    chosen = Options(config="2", model="side:Side", **options)
    services = make_accelerator("cpu"), Store(folder), SilentProgress(), Interruption(), NullTracker()
    return RunContext(chosen, data, 16, *services, nn.Identity())


def test_the_network_is_measured_on_held_out_images_and_their_mirror_images(tmp_path):
    data = load_dataset(str(write_sides(tmp_path / "sides.npz")))
    context = context_of(data, tmp_path)

    def left(x: torch.Tensor) -> torch.Tensor:
        side = x[..., :6].mean((1, 2, 3)) - x[..., 6:].mean((1, 2, 3))
        return torch.stack([side, -side], dim=1)

    class Left(nn.Module):
        forward = staticmethod(left)

    assert stored_mirroring(context, "a") is None
    found = mirroring_once(context, Left(), "a")
    assert found == Mirroring(plain=100.0, mirrored=0.0)
    assert stored_mirroring(context, "a") == found
    assert not found.suits


@pytest.mark.parametrize(("lost", "suits"), [(-3.0, True), (MIRROR_LOSS, True), (MIRROR_LOSS + 0.1, False)])
def test_few_points_may_be_lost(lost, suits):
    found = Mirroring(plain=90.0, mirrored=90.0 - lost)
    assert found.suits is suits
    assert ("training shows mirror images" in found.note) is suits


@pytest.mark.parametrize(
    ("plain", "mirrored", "learned"), [(99.0, 100.0, True), (100.0, 99.0, True), (98.9, 100.0, False), (100, 98, False)]
)
def test_a_teacher_that_has_learned_both_sides_shows_their_mean(tmp_path, plain, mirrored, learned):
    data = load_dataset(str(write_npz(tmp_path / "colours.npz", train=32)))
    context, mirroring = context_of(data, tmp_path), Mirroring(plain, mirrored)
    assert mirroring.learned is learned
    assert make_baseline(context, tiny_network(), "file", 90.0, mirroring).teacher.mirrored is learned
    assert not make_baseline(context, tiny_network(), "file", 90.0).teacher.mirrored


def test_a_run_logs_that_it_mirrors_images(tmp_path):
    (tmp_path / "constant.py").write_text(SIDE.replace("0.1", "0.0"))
    write_sides(tmp_path / "sides.npz")
    flags = "--model constant:Side --weights builtin --data sides.npz --config 2 --bits 8 --epochs 1 --no-onnx"
    ended = call_program(tmp_path, "run", *flags.split(), "--out", "out")
    assert "training shows mirror images, too" in ended.stderr
    assert not any("mirror" in note for note in read_report(tmp_path / "out")["run"]["dataset"]["notes"])


def test_nothing_is_measured_where_no_training_mirrors(tmp_path):
    data = load_dataset(str(write_npz(tmp_path / "colours.npz", train=32)))
    assert mirroring_once(context_of(data, tmp_path, epochs=0), nn.Identity(), "a") is None
    plain = dataclasses.replace(data, train=data.train.unmirrored())
    assert mirroring_once(context_of(plain, tmp_path), nn.Identity(), "a") is None


def test_a_run_says_that_it_mirrors_nothing_and_plans_it(tmp_path):
    (tmp_path / "side.py").write_text(SIDE)
    write_sides(tmp_path / "sides.npz")
    flags = "--model side:Side --weights builtin --data sides.npz --config 2 --bits 8 --epochs 1 --no-onnx --out out"
    ended = call_program(tmp_path, "run", *flags.split())
    assert ended.returncode == 0
    words = "Top-1 of 0.00 on mirrored training images, and 100.00"
    assert words in ended.stderr
    report = read_report(tmp_path / "out")
    assert any(words in note for note in report["run"]["dataset"]["notes"])
    assert report["rows"][0]["top1_quant"] == 100
    planned = call_program(tmp_path, "run", *flags.split(), "--dry-run").stdout
    assert "Top-1 on mirror images" in planned
    assert "to do" not in planned
