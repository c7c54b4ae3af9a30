"""The command that users run, with a tracker."""

import json
import os
import subprocess

import pytest

from tests.pipeline.tracking.conftest import free_port
from tests.support.networks import write_module, write_npz
from tests.support.program import ROOT, call_program

TRAININGS = {"baseline/training": 10, "cosine-5.3.3/finetune": 2, "cosine-5.3.3-4/qat": 1}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on a small network and data, with more flags."""
    write_npz(tmp_path / "colours.npz")
    write_module(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        words = ["--config", "5,3,3", "--bits", "4", "--model", "tiny_net:make", "--data", "colours.npz"]
        words += ["--epochs", "2", "--out", "out", *flags]
        return call_program(tmp_path, *words)

    return run


def test_a_run_is_tracked_and_again_when_all_of_it_is_stored(command, server, tmp_path) -> None:
    curves = []
    for experiment in ("command", "again"):
        place = ("--track", "mlflow", "--tracking-uri", server.uri, "--experiment", experiment)
        done = command("--qat-epochs", "1", *place)
        assert done.returncode == 0, done.stderr
        assert f" {server.uri}/#/experiments/" in done.stderr
        (run,) = server.runs(experiment)
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert (run.info.status, run.data.params["model"], run.data.params["epochs"]) == (
            "FINISHED",
            "tiny_net:make",
            "2",
        )
        assert run.data.metrics["baseline/top1"] == report["baseline"]["top1"]
        assert run.data.metrics["cosine-5.3.3-4/top1_quant"] == report["rows"][0]["top1_quant"]
        for name in ("report.md", "report.json", report["rows"][0]["artifact"], report["rows"][0]["onnx"]):
            got = server.artifact(run.info.run_id, name, tmp_path / "got")
            assert got.read_bytes() == (tmp_path / "out" / name).read_bytes()
        curves.append({name: curve(server, run, name) for name in TRAININGS})
    assert {name: [step for step, _ in curve] for name, curve in curves[0].items()} == {
        name: list(range(1, epochs + 1)) for name, epochs in TRAININGS.items()
    }
    assert curves[0] == curves[1]


def curve(server, run, name):
    return [(point.step, point.value) for point in server.client.get_metric_history(run.info.run_id, f"{name}/loss")]


def test_a_tracker_that_is_down_fails_nothing(command, tmp_path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    done = command("--track", "mlflow", "--tracking-uri", uri)
    assert done.returncode == 0, done.stderr
    warning = f"tracking with mlflow at {uri}: Connection refused; the run goes on without it"
    assert done.stderr.splitlines().count(warning) == 1
    assert (tmp_path / "out" / "report.json").is_file()
