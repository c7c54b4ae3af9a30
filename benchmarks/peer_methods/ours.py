"""This project: its command line as a process, without training."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import load

from .job import CALIBRATION_IMAGES, SEED, Job, Run, cpu_seconds

METHOD, DENSE = "seriesquant", "seriesquant, dense"
SIZES = {
    "resnet20": (0.08, 0.06, 0.05, 0.045, 0.04, 0.03, 0.02),
    "resnet32": (0.136, 0.102, 0.085, 0.068, 0.051, 0.034),
}
PROGRAM = Path(__file__).resolve().parents[2] / "run_pipeline.py"


def runs(job: Job) -> Iterator[Run]:
    """Run one command for all sizes and the dense network at 4 bits, and yield each of its files.

    The seconds of the command are divided by the number of its files: it writes all of them from one measurement.

    Raises:
        RuntimeError: The command failed.
    """
    out = job.folder / "run"
    start, cpu = time.perf_counter(), cpu_seconds()
    done = subprocess.run(_command(job, out), capture_output=True, text=True)
    spent = cpu_seconds() - cpu, time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-80:]}")
    rows = [row for row in json.loads((out / "report.json").read_text())["rows"] if row["artifact"]]
    share = spent[0] / len(rows), spent[1] / len(rows)
    for row in rows:
        yield _run(out / row["artifact"], row, share)


def _command(job: Job, out: Path) -> list[str]:
    targets = ["--target-mb", ",".join(map(str, SIZES[job.model])), "--dense-bits", "4", "--epochs", "0"]
    inputs = ["--model", job.model, "--weights", str(job.weights), "--data", str(job.data), "--device", "cpu"]
    calibration = ["--calibration-size", str(CALIBRATION_IMAGES), "--seed", str(SEED)]
    folders = ["--out", str(out), "--cache-dir", str(job.folder / "store")]
    return [sys.executable, str(PROGRAM), *targets, *inputs, *calibration, *folders]


def _run(artifact: Path, row: dict[str, Any], share: tuple[float, float]) -> Run:
    target = row["target_mb"]
    named = (DENSE, "4 bits") if target is None else (METHOD, f"--target-mb {target}")
    return Run(*named, lambda path: shutil.copyfile(artifact, path), load, share)
