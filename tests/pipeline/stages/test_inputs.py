"""Whole runs whose images have other channels, normalizations and sizes."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import load
from pipeline.artifact import open_artifact
from pipeline.cli import main
from pipeline.data import load_dataset
from pipeline.errors import OptionsError
from pipeline.options.options import Options
from pipeline.runner import run
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.context import make_context
from tests.support.networks import SOURCE, tiny_network
from tests.support.report_schema import read_report

EXAMPLE = Path(__file__).parents[3] / "examples" / "onnx_top1.py"


def module(folder, channels, more=""):
    """Write a network for images of some channels; returns its name."""
    name = f"net{channels}{len(more)}"
    source = SOURCE.replace("nn.Conv2d(3, 8", f"nn.Conv2d({channels}, 8")
    (folder / f"{name}.py").write_text(f"{source}\n{more}")
    return f"{name}:make"


def bands(folder, channels):
    """Write `colours.npz` with other channels: the mean of the colours, and the colours again and again."""
    arrays = dict(np.load(folder / "colours.npz"))
    for half in ("x_train", "x_test"):
        colours = arrays[half]
        gray = colours.mean(3, keepdims=True).astype(np.uint8)
        arrays[half] = gray if channels == 1 else np.concatenate([colours] * 5, axis=3)[..., :channels]
    np.savez(folder / f"bands{channels}.npz", **arrays)
    return f"bands{channels}.npz"


def options(model, data, out, **changes):
    chosen = {"config": "3,2,2", "bits": 4, "epochs": 1, "workers": 0, "model": model, "data": data, "out": out}
    return Options(**(chosen | changes))


def context(**changes):
    chosen = Options(**({"config": "3,2,2", "data": "colours.npz"} | changes))
    return make_context(chosen, make_accelerator("cpu"), SilentProgress(), Interruption())


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_reach_every_file(here, capsys, channels):
    data = bands(here, channels)
    report = run(options(module(here, channels), data, f"out{channels}")).report
    row = report["rows"][0]
    file = here / f"out{channels}" / row["artifact"]
    header, _ = open_artifact(file)
    assert len(header.mean) == len(header.std) == channels
    assert report["run"]["dataset"]["mean"] == list(header.mean)
    assert row["reloaded_logits_max_abs_diff"] == 0
    assert row["onnx_top1"] == row["top1_quant"]
    assert main(["evaluate", str(file), "--data", data, "--allow-import"]) == 0
    assert f" {row['top1_quant']:.2f} " in capsys.readouterr().out
    assert main(["inspect", str(file)]) == 0
    assert main(["export", str(file), "--format", "onnx", "--out", "again.onnx", "--allow-import"]) == 0
    assert load(file, allow_import=True, execution="separable")[0][0] is not None
    capsys.readouterr()
    runpy.run_path(str(EXAMPLE))["main"](str(here / f"out{channels}" / row["onnx"]), data)
    assert f"Top-1 {row['onnx_top1']:.2f} " in capsys.readouterr().out
    assert main(["evaluate", str(file), "--data", bands(here, 5), "--allow-import"]) == 2
    assert re.search(rf"{channels} channels?.*5 channels", capsys.readouterr().err)


def test_colours_and_gray_are_converted_and_other_numbers_refused(here):
    gray = context(model=module(here, 1))
    assert gray.data.normalization.channels == 1
    assert any("gray" in note for note in gray.data.notes)
    repeated = context(model=module(here, 3), data=bands(here, 1))
    assert (repeated.data.channels, repeated.data.normalization.channels) == (1, 3)
    for channels, data in ((13, "colours.npz"), (13, bands(here, 1)), (3, bands(here, 4)), (1, bands(here, 4))):
        with pytest.raises(OptionsError, match=rf"takes images of {channels} channels?.*data.*\d channels?; allowed"):
            context(model=module(here, channels), data=data)


def test_mean_and_std_are_in_every_file_and_every_key(here):
    model = module(here, 3)
    first = context(model=model)
    other = context(model=model, mean="0.5", std="0.25,0.5,0.75")
    assert first.data.normalization.mean == (0.485, 0.456, 0.406)
    assert (other.data.normalization.mean, other.data.normalization.std) == ((0.5,) * 3, (0.25, 0.5, 0.75))
    assert first.data.train.digest != other.data.train.digest
    assert first.data.test.digest != other.data.test.digest
    with pytest.raises(OptionsError, match=r"--std: got 2 values.*3 channels.*1 or 3"):
        context(model=model, std="0.5,0.5")
    with pytest.raises(OptionsError, match=r"--mean: got 2 values.*1 channel; allowed: 1$"):
        context(model=module(here, 1), mean="0.5,0.5")
    run(options(model, "colours.npz", "half", epochs=0, mean="0.5", std="0.25,0.5,0.75"))
    report = read_report(here / "half")
    assert (report["run"]["dataset"]["mean"], report["run"]["dataset"]["std"]) == ([0.5] * 3, [0.25, 0.5, 0.75])
    header, _ = open_artifact(here / "half" / report["rows"][0]["artifact"])
    assert (header.mean, header.std) == ((0.5,) * 3, (0.25, 0.5, 0.75))
    assert "0.25, 0.5, 0.75" in (here / "half" / "report.md").read_text()


def test_a_networks_configuration_is_its_default(here):
    own = """
inner = make


def make(num_classes=4):
    net = inner(num_classes)
    net.default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return net
"""
    data = context(model=module(here, 3, own)).data
    assert data.normalization.mean == data.normalization.std == (0.5,) * 3
    assert any("0.5,0.5,0.5" in note for note in data.notes)


def test_image_size_reaches_the_artifact_and_its_evaluation(here, capsys):
    report = run(options(module(here, 3), "colours.npz", "sized", epochs=0, image_size="16,20")).report
    row = report["rows"][0]
    header, _ = open_artifact(here / "sized" / row["artifact"])
    assert header.image_size == (16, 20)
    assert report["run"]["dataset"]["image_size"] == [16, 20]
    assert main(["evaluate", str(here / "sized" / row["artifact"]), "--data", "colours.npz", "--allow-import"]) == 0
    assert f" {row['top1_quant']:.2f} " in capsys.readouterr().out


def test_a_baseline_at_chance_is_warned_of_at_the_top(here, caplog):
    """A network whose last layer has no weights predicts one class."""
    torch.manual_seed(0)
    state = tiny_network().state_dict()
    state["5.weight"].zero_()
    torch.save(state, here / "zero.pth")
    model = module(here, 3)
    report = run(options(model, "colours.npz", "chance", epochs=0, weights="zero.pth")).report
    (warning,) = report["baseline"]["warnings"]
    assert "chance" in warning
    assert warning in caplog.text
    lines = (here / "chance" / "report.md").read_text().splitlines()
    assert any("Warning" in line and "chance" in line for line in lines[:5])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse these names")
def test_a_folder_of_names_that_are_not_utf8_is_compressed(here):
    rng = np.random.default_rng(0)
    for half in ("train", "valid"):
        for place, name in enumerate((b"caf\xe9", b"dog", b"\xff", b"plain")):
            folder = here / "folder" / half / os.fsdecode(name)
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 120, (12, 12, 3)) + 40 * place
                Image.fromarray(pixels.astype(np.uint8)).save(folder / os.fsdecode(b"\xe9%d.png" % number))
    run(options(module(here, 3), "folder", "strange", epochs=0))
    report = json.loads((here / "strange" / "report.json").read_text(encoding="utf-8"))
    header, _ = open_artifact(here / "strange" / report["rows"][0]["artifact"])
    assert set(header.class_names) == {"caf\\xe9", "dog", "\\xff", "plain"}
    assert load_dataset("folder").class_names == header.class_names
