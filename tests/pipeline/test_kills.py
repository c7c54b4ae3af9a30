"""The command, killed at random moments: what follows finds nothing half written and ends as if undisturbed."""

import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.onnx.trace import trace
from tests.support.attempts import begin
from tests.support.networks import SOURCE, tiny_network, write_npz

ROOT = Path(__file__).parents[2]
KILLS, KILLS_BY_TIME = 12, 3
BATCH = 16
# A network that stops in the middle of its 4th training step, once, if there is a file named `pause`. The steps of the
# checks before have fewer images.
PAUSING = f"""{SOURCE}

import os
import pathlib
import time


class Pausing(nn.Sequential):
    steps = 0

    def forward(self, x):
        Pausing.steps += self.training and len(x) == {BATCH}
        if Pausing.steps == 4:
            pause()
        return super().forward(x)


def pause():
    try:
        os.rename("pause", "paused")
    except FileNotFoundError:
        return
    while pathlib.Path("paused").exists():
        time.sleep(0.01)


def make_pausing(num_classes=4):
    return Pausing(*make(num_classes))
"""
FLAGS = [
    *("--config", "3,2,2", "--bits", "8,4", "--model", "pausing_net:make_pausing", "--data", "colours.npz"),
    *("--epochs", "2", "--qat-epochs", "1", "--batch-size", str(BATCH), "--calibration-size", "40"),
]
TIMES = ("finetune_s", "qat_s", "inference_ms", "original_inference_ms", "onnx_inference_ms")
PATIENCE = 600


def words(attempt):
    """The command line on a store and an output folder of their own."""
    return [*FLAGS, "--cache-dir", f"store{attempt}", "--out", f"run{attempt}"]


def start(folder, attempt):
    """Start the command as users do."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *words(attempt)]
    with (folder / f"log{attempt}").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def fork(folder, attempt, **more):
    """Start the command without the time that its imports take."""
    return begin(folder, words(attempt), log=folder / f"log{attempt}", graph=folder / "graph", **more)


def finish(process):
    process.join(PATIENCE)
    return process.exitcode


def figures(folder, attempt):
    """The report but for its times and places, and the digests of what it is about."""
    report = json.loads((folder / f"run{attempt}" / "report.json").read_text())
    for row in report["rows"]:
        for name in TIMES:
            del row[name]
    return {part: report[part] for part in ("baseline", "rows", "layers", "gate", "kernels")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    write_npz(folder / "colours.npz")
    (folder / "pausing_net.py").write_text(PAUSING)
    (folder / "graph").write_bytes(pickle.dumps(trace(tiny_network(), (12, 12))))
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """Figures of a run without a kill, as users start it."""
    assert start(folder, "").wait(PATIENCE) == 0, (folder / "log").read_text()
    return figures(folder, "")


@pytest.fixture(scope="module")
def counted(folder, expected):
    """Writes to the disk, and seconds, of a forked run without a kill."""
    began = time.monotonic()
    assert finish(fork(folder, "-counted", count=folder / "count")) == 0, (folder / "log-counted").read_text()
    seconds = time.monotonic() - began
    check(folder, "-counted", expected)
    return int((folder / "count").read_text()), seconds


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(folder, expected, counted):
    """The moments are writes to the disk, between which nothing changes that a later run could find.

    There is one in each part of the first half of the writes. It is enough: a run that goes on has less to write, so
    that its last ones are among them.
    """
    moments, (writes, _) = random.Random(0), counted
    part = writes / 2 / KILLS
    lasts = [moments.randint(round(part * number) + 1, round(part * (number + 1))) for number in range(KILLS)]
    moments.shuffle(lasts)
    attempt = 0
    while lasts:
        code = finish(fork(folder, attempt, last=lasts[-1]))
        if code == -signal.SIGKILL:
            lasts.pop()
            continue
        assert code == 0, (folder / f"log{attempt}").read_text()
        check(folder, attempt, expected)
        attempt += 1
    assert finish(fork(folder, attempt)) == 0, (folder / f"log{attempt}").read_text()
    check(folder, attempt, expected)


def test_the_command_that_is_killed_at_any_time_ends_like_one_that_is_not(folder, expected, counted):
    moments, (_, seconds) = random.Random(1), counted
    for _ in range(KILLS_BY_TIME):
        process = fork(folder, "-timed")
        process.join(moments.uniform(0.1, 0.9) * seconds)
        process.kill()
        assert finish(process) in (0, -signal.SIGKILL)
    assert finish(fork(folder, "-timed")) == 0, (folder / "log-timed").read_text()
    check(folder, "-timed", expected)


def check(folder, attempt, expected):
    assert figures(folder, attempt) == expected
    run, store = folder / f"run{attempt}", folder / f"store{attempt}"
    assert not [path for place in (run, store) for path in place.rglob(".*.seriesquant-part")]
    assert not list(store.glob("*.checkpoint"))
    for row in expected["rows"]:
        assert hashlib.sha256((run / row["artifact"]).read_bytes()).hexdigest() == row["sha256"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_run_that_is_asked_to_end_does_so_after_a_step_and_goes_on_later(folder, expected, number, code):
    attempt = f"-{code}"
    (folder / "pause").touch()
    process = fork(folder, attempt)
    while not (folder / "paused").exists():
        assert process.exitcode is None, (folder / f"log{attempt}").read_text()
        time.sleep(0.02)
    os.kill(process.pid, number)
    (folder / "paused").unlink()
    assert finish(process) == code
    assert "run the same command again" in (folder / f"log{attempt}").read_text().splitlines()[-1]
    assert len(list((folder / f"store{attempt}").glob("*.checkpoint"))) == 1, "it ended in its training"
    assert finish(fork(folder, attempt)) == 0
    check(folder, attempt, expected)


def test_runs_with_the_same_store_and_output_folder_do_not_disturb_each_other(folder, expected):
    processes = [fork(folder, "-both") for _ in range(3)]
    assert [finish(process) for process in processes] == [0, 0, 0], (folder / "log-both").read_text()
    check(folder, "-both", expected)
    assert "all " in (folder / "log-both").read_text()
