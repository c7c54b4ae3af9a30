"""The real command, killed at random moments: what follows finds nothing half written and ends as if undisturbed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 30
FLAGS = [
    *("--config", "3,2,2", "--bits", "8,4", "--model", "tiny_net:make", "--data", "colours.npz"),
    *("--epochs", "2", "--qat-epochs", "1", "--batch-size", "16", "--calibration-size", "40"),
]
TIMES = ("finetune_s", "qat_s")


def start(folder, attempt):
    """Start the command on a store and an output folder of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *FLAGS]
    places = ["--cache-dir", f"store{attempt}", "--out", f"run{attempt}"]
    with (folder / f"log{attempt}").open("ab") as log:
        return subprocess.Popen([*command, *places], cwd=folder, env=environment, stdout=log, stderr=log)


def figures(folder, attempt):
    """The report but for its times and places, and the digests of what it is about."""
    report = json.loads((folder / f"run{attempt}" / "report.json").read_text())
    for row in report["rows"]:
        for name in TIMES:
            del row[name]
    return {part: report[part] for part in ("baseline", "rows", "layers", "gate", "kernels")}


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The figures of a run that nobody killed, and the seconds that it took."""
    began = time.monotonic()
    assert start(folder, "").wait(300) == 0, (folder / "log").read_text()
    return figures(folder, ""), time.monotonic() - began


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(folder, undisturbed):
    expected, seconds = undisturbed
    moments, kills, attempt = random.Random(0), 0, 0
    while kills < KILLS:
        process, began = start(folder, attempt), time.monotonic()
        try:
            code = process.wait(moments.uniform(0.1, 0.7) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert code == 0, (folder / f"log{attempt}").read_text()
        check(folder, attempt, expected)
        seconds = min(seconds, time.monotonic() - began)  # the machine may have become faster
        attempt += 1
    assert start(folder, attempt).wait(300) == 0, (folder / f"log{attempt}").read_text()
    check(folder, attempt, expected)


def check(folder, attempt, expected):
    assert figures(folder, attempt) == expected
    run, store = folder / f"run{attempt}", folder / f"store{attempt}"
    assert not [path for place in (run, store) for path in place.rglob(".*.part")]
    assert not list(store.glob("*.checkpoint"))
    for row in expected["rows"]:
        assert hashlib.sha256((run / row["artifact"]).read_bytes()).hexdigest() == row["sha256"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_end_does_so_soon_and_goes_on_later(folder, undisturbed, number, code):
    expected, seconds = undisturbed
    for share in (0.6, 0.4, 0.25):  # less, where the machine has become so much faster that the run ends before
        attempt = f"-{code}-{share}"
        process = start(folder, attempt)
        time.sleep(share * seconds)
        asked = time.monotonic()
        process.send_signal(number)
        ended = process.wait(60)
        if ended != 0:
            break
    assert ended == code
    assert time.monotonic() - asked < 10
    assert "run the same command again" in (folder / f"log{attempt}").read_text().splitlines()[-1]
    assert start(folder, attempt).wait(300) == 0
    check(folder, attempt, expected)


def test_two_runs_with_the_same_store_and_output_folder_do_not_disturb_each_other(folder, undisturbed):
    processes = [start(folder, "-both") for _ in range(3)]
    assert [process.wait(300) for process in processes] == [0, 0, 0], (folder / "log-both").read_text()
    check(folder, "-both", undisturbed[0])
    assert "all " in (folder / "log-both").read_text()
