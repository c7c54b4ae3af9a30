"""This project: its command line as a process, without training."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from pipeline import load

from .job import CALIBRATION_IMAGES, SEED, Job, Run

METHOD, DENSE = "seriesquant", "seriesquant, dense"
SIZES = {
    "resnet20": (0.08, 0.06, 0.05, 0.04, 0.03, 0.02),
    "resnet32": (0.136, 0.102, 0.085, 0.068, 0.051, 0.034),
}
PROGRAM = Path(__file__).resolve().parents[2] / "run_pipeline.py"


def runs(job: Job) -> Iterator[Run]:
    """Yield the dense network at 4 bits, then each target size.

    The commands share a store. The first one therefore measures the baseline for all, and the first target the layers.
    """
    yield _run(job, DENSE, "4 bits", ["--config", "dense", "--bits", "4"])
    for size in SIZES[job.model]:
        yield _run(job, METHOD, f"--target-mb {size}", ["--target-mb", str(size)])


def _run(job: Job, method: str, options: str, arguments: list[str]) -> Run:
    def write(path: Path) -> None:
        out = path.with_suffix(".run")
        inputs = ["--model", job.model, "--weights", str(job.weights), "--data", str(job.data), "--device", "cpu"]
        calibration = ["--calibration-size", str(CALIBRATION_IMAGES), "--seed", str(SEED), "--epochs", "0"]
        folders = ["--out", str(out), "--cache-dir", str(job.folder / "store")]
        command = [sys.executable, str(PROGRAM), *arguments, *inputs, *calibration, *folders]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-100:]}")
        row = json.loads((out / "report.json").read_text())["rows"][-1]
        shutil.copyfile(out / row["artifact"], path)

    def read(path: Path) -> nn.Module:
        return load(path)

    return Run(method, options, write, read)
