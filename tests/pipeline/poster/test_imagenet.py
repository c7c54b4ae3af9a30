"""The poster's networks for ImageNet, end to end on a small sample with ImageNet's classes, from random weights.

One run per network: fit, one step of fine-tuning, rounding to the nearest, artifacts, ONNX files and report. Some of
the printed configs are run, and all with ``SERIESQUANT_POSTER=all``. gptq is left to the tests of smaller networks:
here it would take most of the time.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.artifact import load
from pipeline.models.registry import build_model
from reports.poster.figures import POSTER_IMAGENET
from tests.support.program import call_program
from tests.support.report_schema import read_report
from tests.support.reports import parse_table

FEW = {"resnet18": ("6,3,3,3,2", "6,3,3,2,2"), "convnext_tiny": ("7x3,7x3,7x4,6x5,6x3",)}
ALL = {model: tuple(configs) for model, configs in POSTER_IMAGENET.items()}
CONFIGS = ALL if os.environ.get("SERIESQUANT_POSTER") == "all" else FEW
BASELINES = {"resnet18": 69.76, "convnext_tiny": 82.1}
TRAIN, TEST = 16, 8


def synsets() -> list[str]:
    """The names of ImageNet's class folders, which timm lists."""
    folder = Path(find_spec("timm").origin).parent  # type: ignore[union-attr, arg-type]
    return (folder / "data" / "_info" / "imagenet_synsets.txt").read_text().split()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a sample of a few dozen images in ImageNet's 1,000 class folders."""
    folder = tmp_path_factory.mktemp("poster")
    names, rng = synsets(), np.random.default_rng(0)
    assert len(names) == 1000
    for half, count in (("train", TRAIN), ("val", TEST)):
        for name in names:
            (folder / "imagenet-sample" / half / name).mkdir(parents=True)
        for place in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "imagenet-sample" / half / names[37 * place] / f"{place}.png")
    return folder


def compress(here, model, *words):
    """Run every config of the network; return its report."""
    torch.manual_seed(0)
    torch.save(build_model(model, 1000).state_dict(), here / f"{model}.pth")
    configs = [word for config in CONFIGS[model] for word in ("--config", config)]
    network = ("--model", model, "--weights", f"{model}.pth", "--data", "imagenet-sample")
    small = ("--epochs", "1", "--batch-size", str(TRAIN), "--calibration-size", "4", "--rounding", "nearest")
    done = call_program(here, *configs, *network, *small, "--fit", "weights", *words, "--out", model)
    assert done.returncode == 0, done.stderr
    assert f"val/ has no images in {1000 - TEST:,} of 1,000 class folders" in done.stderr
    (here / f"{model}.pth").unlink()
    return read_report(here / model)


@pytest.fixture(scope="module")
def resnet18(here):
    return compress(here, "resnet18", "--config", "dense", "--bits", "4", "--scheme", "minifloat")


@pytest.fixture(scope="module")
def convnext(here):
    return compress(here, "convnext_tiny", "--bits", "4")


def check(report, here, model):
    rows = [row for row in report["rows"] if row["config"] != "dense"]
    assert tuple(row["config"] for row in rows) == CONFIGS[model]
    assert report["run"]["dataset"]["classes"] == 1000
    for row in rows:
        assert row["top1_pre"] is not None
        assert row["finetune_loss_after"] is not None
        assert row["reloaded_logits_max_abs_diff"] == 0
        assert (here / model / row["artifact"]).stat().st_size / 1e6 == row["size_mb"]
        assert row["onnx_differing_predictions"] == 0, row["onnx_reason"]


def test_resnet18(resnet18, here):
    check(resnet18, here, "resnet18")
    params = {row["config"]: row["params"] for row in resnet18["rows"]}
    assert (params["dense"], params["6,3,3,2,2"]) == (11_679_912, 5_943_016)
    network = load(here / "resnet18" / "artifacts" / "cosine-6,3,3,2,2-4.safetensors")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_convnext(convnext, here):
    check(convnext, here, "convnext_tiny")
    shares = {row["config"]: 100 * row["compressible_params"] / 329_184 for row in convnext["rows"]}
    assert shares["7x3,7x3,7x4,6x5,6x3"] == pytest.approx(83.32, abs=0.01)


def tables(here, report, top1):
    """The page with a run's rows, as if its baseline had this Top-1; by heading the lines of its tables."""
    model = report["run"]["model"]
    (here / f"{model}-like").mkdir(exist_ok=True)
    content = report | {"baseline": report["baseline"] | {"top1": top1}}
    (here / f"{model}-like" / "report.json").write_text(json.dumps(content))
    done = call_program(here, "poster", f"{model}-like")
    assert done.returncode == 0, done.stderr
    found = {}
    for part in done.stdout.split("\n#"):
        if lines := [line for line in part.splitlines() if line.startswith("|")]:
            titles, cells = parse_table("\n".join(lines))
            found[part.splitlines()[0].strip("# ")] = [dict(zip(titles, line, strict=True)) for line in cells]
    return found


def test_random_weights_fill_only_the_numbers_of_parameters(resnet18, here):
    assert "Beside the poster" not in (here / "resnet18" / "report.md").read_text()
    done = call_program(here, "poster", "resnet18")
    assert done.returncode == 0
    assert "resnet18 fills only the numbers of parameters: its baseline has" in done.stderr
    assert done.stdout.count("parameters alone") == 1 + len(CONFIGS["resnet18"]) + 3, "dense, and 3 rows of 4 bits"


def test_the_posters_tables_have_every_row_of_the_runs(resnet18, convnext, here):
    found = tables(here, resnet18, BASELINES["resnet18"])
    cosine = [line for line in found["ResNet-18"] if line["Method"] == "CosConv"]
    filled = [line for line in cosine if line["Pre Top1, here"]]
    assert [line["Config"].split()[0] for line in filled] == list(CONFIGS["resnet18"])
    assert [line for line in filled if line["Command"] or not line["Post Top1, here"]] == []
    four = [line for line in found["Quantization of ResNet-18 on ImageNet"] if line["Size (MB), here"]]
    assert [(line["Bits"], line["Method"], line["Config"]) for line in four] == [
        ("4", "Conv2D", "-"),
        ("4", "CosConv", "6,3,3,3,2"),
        ("4", "CosConv", "6,3,3,2,2"),
    ]
    assert all("minifloat of 12 bits, nearest" in line["Settings"] for line in four)
    lines = tables(here, convnext, BASELINES["convnext_tiny"])["ConvNeXt-T"]
    filled = [line for line in lines[1:] if line["Pre Top1, here"]]
    assert [line["Config"] for line in filled] == list(CONFIGS["convnext_tiny"])
    assert max(abs(float(line["Params (%), diff."])) for line in filled) <= 0.01
