"""Whole runs on a real Ray cluster of this machine, beside the same run without one."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.executors import executor
from pipeline.options.options import Options
from pipeline.runtime.signals import Interruption
from tests.support.attempts import begin
from tests.support.networks import SOURCE, write_npz

PATIENCE = 600  # a worker pauses for half of it
# A network that stops a worker in the middle of a training step, once, if there is a file named `pause`, and raises an
# internal error there if there is a file named `broken`.
PAUSING = f"""{SOURCE}

import logging
import os
import pathlib
import sys
import time


class Pausing(nn.Sequential):
    def forward(self, x):
        if self.training and "default_worker" in sys.argv[0] and len(x) > 4:  # not in the check of the network
            fail()
            pause()
        return super().forward(x)


def fail():
    if os.path.exists("broken"):
        logging.getLogger("pipeline").warning("the last line of a worker")
        raise ZeroDivisionError("a bug on a worker")


def pause():
    try:
        os.rename("pause", "found")
    except FileNotFoundError:
        return
    pathlib.Path("pids").write_text(f"{{os.getpid()}} {{os.getppid()}}")
    os.rename("pids", "paused")
    time.sleep(300)


def make_pausing(num_classes=4):
    return Pausing(*make(num_classes))
"""
GRID = ("--config", "3,2,2", "--basis", "cosine,chebyshev", "--bits", "8,4", "--epochs", "1")
SMALL = ("--config", "3,2,2", "--bits", "4", "--epochs", "1", "--no-onnx")
NETWORK = ("--model", "pausing_net:make_pausing", "--data", "colours.npz", "--workers", "0")


class Run:
    """The command in a forked process, with a store of its own, so that it reads nothing that another run computed."""

    def __init__(self, folder: Path, out: str, *words: str) -> None:
        self._streams = tuple(folder / f"{out}.{name}" for name in ("stdout", "stderr"))
        for stream in self._streams:
            stream.unlink(missing_ok=True)
        words = (*NETWORK, "--out", out, "--cache-dir", f"cache-{out}", *words)
        self.process = begin(folder, words, log=self._streams[0], errors=self._streams[1])

    def finish(self) -> tuple[int | None, str, str]:
        self.process.join(PATIENCE)
        out, error = (stream.read_text() for stream in self._streams)
        return self.process.exitcode, out, error


def paused(folder: Path, ended: Callable[[], object]) -> tuple[int, int]:
    """The ids of a worker in the middle of its task and of what started it."""
    until = time.monotonic() + PATIENCE
    while not (folder / "paused").exists():
        assert ended() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    worker, parent = map(int, (folder / "paused").read_text().split())
    (folder / "paused").unlink()
    return worker, parent


def report(folder: Path, out: str):
    """The report without what may differ: times, executor, folder, and whether a stage was stored before a kill."""
    found = json.loads((folder / out / "report.json").read_text())
    for name in ("duration_s", "command", "options", "out"):
        found["run"].pop(name)
    for each in found["run"]["stages"]:
        each.pop("seconds")
        each.pop("cached")
        each.pop("peak_memory_mb")
    for row in found["rows"]:
        for name in ("finetune_s", "qat_s", "inference_ms", "original_inference_ms", "onnx_inference_ms"):
            row.pop(name)
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a network and data, and the report of the grid without Ray."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "pausing_net.py").write_text(PAUSING)
    write_npz(folder / "colours.npz")
    code, _, error = Run(folder, "local", *GRID).finish()
    assert code == 0, error
    return folder


@pytest.fixture(autouse=True)
def _no_address(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster of two CPUs."""
    import ray

    with executor(Options(config="3,3,3,2", executor="ray"), Interruption()):
        yield ray.get_runtime_context().gcs_address


def test_the_grid_gives_the_same_report(here, cluster):
    words = ("--executor", "ray", "--ray-address", cluster, "--track", "tensorboard")
    code, out, error = Run(here, "ray", *GRID, *words).finish()
    assert code == 0, error
    assert report(here, "ray") == report(here, "local")
    (events,) = (here / "ray" / "tensorboard").iterdir()
    tracked = EventAccumulator(str(events)).Reload()
    epochs = {"baseline/training": 10, "cosine-3.2.2/finetune": 1, "chebyshev-3.2.2/finetune": 1}
    assert {name: len(tracked.Scalars(f"{name}/loss")) for name in epochs} == epochs
    digests = [[row["sha256"] for row in report(here, name)["rows"]] for name in ("ray", "local")]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 4
    assert out.splitlines()[-1] == "ray/report.md"
    lines = error.splitlines()
    for name in ("cosine 3,2,2", "chebyshev 3,2,2"):
        assert f"{name}: approximate" in lines
        assert any(line.startswith(f"{name}, 4 bits: Top-1 ") for line in lines)


def test_a_killed_worker_is_replaced_and_the_report_is_the_same(here, cluster):
    (here / "pause").touch()
    run = Run(here, "killed", *GRID, "--executor", "ray", "--ray-address", cluster)
    worker, _ = paused(here, lambda: run.process.exitcode)
    os.kill(worker, signal.SIGKILL)
    code, _, error = run.finish()
    assert code == 0, error
    assert report(here, "killed") == report(here, "local")


def test_an_error_of_a_variant_ends_the_run_as_it_does_without_ray(here, cluster):
    words = (*SMALL, "--lr", "1e6", "--batch-size", "16")
    code, out, error = Run(here, "diverged", *words, "--executor", "ray", "--ray-address", cluster).finish()
    assert (code, out) == (5, "")
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error
    without = Run(here, "diverged-local", *words).finish()
    assert (without[0], without[2].splitlines()[-1]) == (5, error.splitlines()[-1])


def test_a_bug_on_a_worker_is_logged_with_the_traceback_of_the_worker(here, cluster):
    (here / "broken").touch()
    code, out, error = Run(here, "bug", *SMALL, "--executor", "ray", "--ray-address", cluster).finish()
    (here / "broken").unlink()
    assert (code, out) == (1, "")
    assert "ZeroDivisionError: a bug on a worker" in error
    assert "in fail" in error
    assert "the last line of a worker" in error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_the_cluster_that_it_started(here, number, code):
    (here / "pause").touch()
    run = Run(here, f"signal{code}", *SMALL, "--executor", "ray")
    pids = paused(here, lambda: run.process.exitcode)
    os.kill(run.process.pid, number)
    assert run.finish()[0] == code, "it does not wait for the worker, which would end well in the end"
    until = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--ray-address", "127.0.0.1:1"], 1, "--executor: the Ray cluster 127.0.0.1:1 cannot be used: "),
        (
            ["--ray-address", "nonsense"],
            1,
            "--executor: the Ray cluster nonsense cannot be used: Invalid address format",
        ),
        (["--ray-cpus", "9999"], 2, "--ray-cpus: got 9999; allowed: 1 to "),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_sentence_before_any_work(here, words, code, sentence):
    found, out, error = Run(here, "none", *GRID, "--executor", "ray", *words).finish()
    assert (found, out) == (code, "")
    assert f"error: {sentence}" in error
    assert error.count("error: ") == 1
    assert not (here / "cache-none").exists()
