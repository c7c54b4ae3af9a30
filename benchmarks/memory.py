"""Peak memory of the main job, run as a child process; with the argument `cifar10`, of ResNet-20 on CIFAR-10.

`cifar10` reads cifar10.npz and resnet20-12fca82f.th in the folder that $SERIESQUANT_DATA names.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOUNDS_MB = {"digits": 2500, "cifar10": 3000}


def arguments(job: str) -> list[str]:
    if job == "digits":
        return ["--bits", "4", "--config", "6,3,3,2,2"]
    folder = Path(os.environ["SERIESQUANT_DATA"])
    inputs = ["--data", str(folder / "cifar10.npz"), "--weights", str(folder / "resnet20-12fca82f.th")]
    return ["--model", "resnet20", "--bits", "4", "--config", "3,3,2,2", "--epochs", "5", *inputs]


def peak_mb(command: list[str]) -> float:
    """Run the command; the largest resident set of it and of the processes that it started, in MB of 10^6 bytes."""
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main() -> None:
    job = sys.argv[1] if len(sys.argv) > 1 else "digits"
    if job not in BOUNDS_MB:
        sys.exit(f"memory: job {job!r}; allowed: {', '.join(BOUNDS_MB)}")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "run_pipeline.py", *arguments(job), "--fresh", "--out", out]
        peak = peak_mb(command)
    print(f"memory: {job}: peak {peak:.0f} MB, {peak / BOUNDS_MB[job]:.2f} of the bound of {BOUNDS_MB[job]} MB")


if __name__ == "__main__":
    main()
