"""The command line in two processes: the report of one process, and the launcher's output after an error."""

import hashlib
import json
import sys

import pytest

from pipeline.cli import main
from tests.support.launching import ROOT, launch, torchrun
from tests.support.networks import write_module, write_npz

PROGRAM = str(ROOT / "run_pipeline.py")
OPTIONS = ["--config", "3,2,2", "--bits", "4", "--basis", "cosine,chebyshev", "--epochs", "2", "--backend", "torch.ao"]
SAME = (
    "basis",
    "config",
    "bits",
    "scheme",
    "fit",
    "rounding",
    "params",
    "params_percent",
    "poster_size_mb",
    "artifact",
)
FIGURES = ("top1_pre", "top1_post", "top1_quant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    write_npz(folder / "colours.npz", train=384, test=501)
    write_module(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The report of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
        assert main(["--model", "tiny_net:make", "--data", "colours.npz", *OPTIONS, "--out", "one"]) == 0
    sys.modules.pop("tiny_net")
    return json.loads((folder / "one" / "report.json").read_text())


@pytest.fixture(scope="module")
def together(folder):
    """Return the outcome of accelerate's launcher with two processes."""
    given = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *given, "--main_process_port=0"]
    command = [*launcher, PROGRAM, "--model", "tiny_net:make", "--data", "colours.npz", *OPTIONS, "--out", "two"]
    return launch(command, cwd=folder, SERIESQUANT_CACHE=str(folder / "cache"), PYTHONPATH=f"{ROOT}:{folder}")


def test_the_report_is_that_of_one_process(folder, alone, together):
    assert together.returncode == 0, together.stderr
    report = json.loads((folder / "two" / "report.json").read_text())
    assert (alone["run"]["processes"], report["run"]["processes"]) == (1, 2)
    assert report["run"]["dataset"] == alone["run"]["dataset"]
    assert report["run"]["calibration_images"] == alone["run"]["calibration_images"] == 384
    assert report["baseline"]["top1"] == pytest.approx(alone["baseline"]["top1"], abs=2)
    assert len(report["rows"]) == len(alone["rows"]) == 2
    for row, expected in zip(report["rows"], alone["rows"], strict=True):
        assert [row[name] for name in SAME] == [expected[name] for name in SAME]
        assert row["size_mb"] == pytest.approx(expected["size_mb"], rel=0.02)
        for name in FIGURES:
            assert row[name] == pytest.approx(expected[name], abs=2)


def test_every_file_is_whole_and_reloads(folder, together):
    rows = json.loads((folder / "two" / "report.json").read_text())["rows"]
    for row in rows:
        content = (folder / "two" / row["artifact"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert row["size_mb"] == len(content) / 1e6
        assert row["reloaded_logits_max_abs_diff"] == 0
        assert (folder / "two" / row["onnx"]).stat().st_size / 1e6 == row["onnx_size_mb"]


def test_one_process_prints(together):
    assert together.stdout.count("CosConv") == together.stdout.count("ChebConv") > 0
    assert together.stdout.count("two/report.md") == 1
    lines = together.stderr.splitlines()
    assert len([line for line in lines if line.startswith("artifacts: reload")]) == 1
    assert len([line for line in lines if "fine-tuning:" in line and "took" in line]) == 2


def test_missing_data_end_all_processes_with_one_sentence_and_their_exit_code(tmp_path):
    done = torchrun(2, [PROGRAM, "--config", "3,3,3,2", "--data", "gone.npz", "--out", "gone"], cwd=tmp_path)
    assert done.returncode == 1, "the launcher's own"
    assert done.stderr.count("error: the data gone.npz does not exist") == 1
    assert "exitcode  : 4" in done.stderr
    assert 'Traceback (most recent call last):\n  File "' + PROGRAM not in done.stderr
    assert done.stdout == ""
    report = json.loads((tmp_path / "gone" / "report.json").read_text())
    assert (report["status"], report["exit_code"]) == ("failed", 4)
