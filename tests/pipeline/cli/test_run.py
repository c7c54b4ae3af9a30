"""Whole runs as the command that users run; where the process is not what is tested, in this one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.sources import load_dataset
from pipeline.runtime.device import make_accelerator
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from tests.support.networks import tiny_network
from tests.support.program import call_program, run_program
from tests.support.report_schema import read_report

GRID = ("--config", "3,2,2", "--bits", "4", "--model", "tiny_net:make", "--data", "colours.npz", "--epochs", "1")


def test_the_command_writes_a_report_and_prints_only_the_result(here):
    done = run_program(here, *GRID, "--out", "command")
    assert done.returncode == 0, done.stderr
    assert "command/report.md" in done.stdout
    assert "epoch" not in done.stdout
    assert "fine-tuning" in done.stderr
    written = {path.name for path in (here / "command").iterdir()}
    reports = {"report.md", "report.html", "report.json"}
    assert written == reports | {"options.yaml", "plots", "artifacts", ".seriesquant.lock"}


def test_rows_are_compared_with_the_original_and_their_bytes_are_accounted_for(here):
    assert call_program(here, *GRID, "--out", "figures").returncode == 0
    report = read_report(here / "figures")
    images, (row,) = report["run"]["dataset"]["test_images"], report["rows"]
    change = 100 * (row["images_gained"] - row["images_lost"]) / images
    assert row["delta_baseline"] == pytest.approx(change, abs=1e-3)
    assert row["agreement"] <= 100 - 100 * (row["images_gained"] + row["images_lost"]) / images + 1e-3
    assert 0 < row["mcnemar_p"] <= 1
    assert min(row["inference_ms"], row["original_inference_ms"], row["onnx_inference_ms"]) > 0
    assert sum(row["file_bytes"].values()) == (here / "figures" / row["artifact"]).stat().st_size
    of_layers, kinds = sum(layer["file_bytes"]["4"] for layer in report["layers"]), row["file_bytes"]
    rounding = len(report["layers"])  # each is rounded to whole bytes
    assert kinds["integers"] - rounding <= of_layers <= kinds["integers"] + kinds["scales and steps"] + rounding
    assert all(stage["peak_memory_mb"] > 50 for stage in report["run"]["stages"])


def write_stripes(path: Path) -> None:
    """Write images of two of four classes, horizontal and vertical stripes: kernels of order 1 see only their mean."""
    generator, stripes, arrays = np.random.default_rng(0), 120 * (np.arange(12) % 2), {}
    for split, count in (("train", 96), ("test", 200)):
        labels = generator.permutation(np.arange(count) % 2)
        patterns = np.stack([np.broadcast_to(stripes[:, None], (12, 12)), np.broadcast_to(stripes, (12, 12))])
        images = generator.integers(0, 60, (count, 12, 12, 3)) + patterns[labels][..., None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels.astype(np.uint8)}
    np.savez(path, **arrays, class_names=np.array(["a", "b", "c", "d"]))


def test_a_missed_gate_exits_3_with_the_report_written(here):
    model = tiny_network()
    write_stripes(here / "few.npz")
    train(
        model,
        load_dataset("few.npz").train,
        Schedule(12, lr=0.05, batch_size=16),
        accelerator=make_accelerator("cpu"),
        seed=0,
    )
    torch.save(model.state_dict(), "good.pt")
    rough = ("--bits", "2", "--epochs", "0", "--fit", "weights", "--rounding", "nearest", "--config", "1,1,1")
    limits = ("--max-drop", "0", "--max-size-mb", "0.0005")
    done = call_program(here, *GRID, "--data", "few.npz", *rough, "--weights", "good.pt", *limits, "--out", "gate")
    assert done.returncode == 3, done.stderr
    report = read_report(here / "gate")
    gate, top1 = report["gate"], report["baseline"]["top1"]
    assert (report["status"], report["error"], report["exit_code"]) == ("done", None, 3)
    assert (gate["max_drop"], gate["max_size_mb"], gate["passed"]) == (0.0, 0.0005, False)
    assert len(gate["failures"]) == len(report["rows"])
    losses = [top1 - row["top1_quant"] for row in report["rows"]]
    assert max(losses) > 1
    for sentence, row, loss in zip(gate["failures"], report["rows"], losses, strict=True):
        assert sentence.startswith(f"cosine {row['config']} at 2 bits ")
        assert (f"{loss:.4g} more than --max-drop 0" in sentence) == (loss > 0)
        assert f"{row['size_mb'] - 0.0005:.4g} more than --max-size-mb 0.0005" in sentence
    assert f"gate missed: {gate['failures'][0]}" in done.stderr
    assert "The gate FAILED" in (here / "gate" / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--config", "3,3"), 2, "3 stages"),
        (("--config", "6,3,3"), 2, "6"),
        (("--model", "resnet19"), 2, "resnet19"),
        (("--model", "no_such:thing"), 2, "no_such"),
        (("--data", "nowhere.npz"), 4, "nowhere.npz"),
        (("--data", "broken.npz"), 4, "broken.npz"),
        (("--weights", "nowhere.th"), 4, "nowhere.th"),
        (("--weights", "broken.npz"), 4, "broken.npz"),
        (("--bits", "9"), 2, "9"),
        (("--scheme", "float"), 2, "int, minifloat"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_its_code(here, change, code, words):
    (here / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    base = ["--config", "3,2,2", "--model", "tiny_net:make", "--data", "colours.npz", "--out", "mistake"]
    at = base.index(change[0]) if change[0] in base else len(base)
    base[at : at + 2] = change
    done = call_program(here, *base)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr.strip().splitlines()[-1]
    assert done.stdout == ""
    assert read_report(here / "mistake")["error"]["exit_code"] == code
    assert not {"report.md", "plots", "artifacts"} & {path.name for path in (here / "mistake").iterdir()}


def test_a_mistake_ends_the_process_with_its_code(here):
    done = run_program(here, *GRID, "--data", "nowhere.npz", "--out", "nowhere")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Traceback" not in done.stderr
    assert "nowhere.npz" in done.stderr.strip().splitlines()[-1]


def test_an_unwritable_folder_is_one_sentence(here):
    (here / "file").write_text("")
    done = call_program(here, *GRID, "--out", "file/out")
    assert done.returncode not in (0, 3)
    assert "Traceback" not in done.stderr


UNTRACEABLE = """
from tiny_net import make as dense
from torch import nn


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x if float(x.sum()) > 0 else x + 0)


def make(num_classes=4):
    return Branching(*dense(num_classes))
"""


def test_a_network_without_onnx_form_is_compressed_all_the_same(here):
    (here / "branching.py").write_text(UNTRACEABLE)
    done = call_program(here, *GRID, "--model", "branching:make", "--epochs", "0", "--out", "branching")
    assert done.returncode == 0, done.stderr
    row = json.loads((here / "branching" / "report.json").read_text())["rows"][0]
    fields = ("onnx", "onnx_size_mb", "onnx_top1", "onnx_differing_predictions", "onnx_bits")
    assert {row[name] for name in fields} == {None}
    assert row["onnx_reason"].startswith("onnx: the network Branching has no ONNX form: ")
    assert row["top1_quant"] is not None
    assert row["onnx_reason"][:40] in (here / "branching" / "report.md").read_text()
    assert [path.suffix for path in (here / "branching" / "artifacts").iterdir()] == [".safetensors"] * 2
