"""Start programs in several processes, as a user would: torchrun on this machine, gloo, a free port."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.runtime.launcher import without_launch

ROOT = Path(__file__).parents[2]
TIMEOUT = 600


def torchrun(count: int, program: Sequence[str], *, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in several processes and capture both output streams."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *program]
    return launch(command, cwd=cwd, **variables)


def launch(command: Sequence[str], *, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with one thread per process and this repository on the path for modules."""
    environment = without_launch(os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True) as launcher:
        try:
            stdout, stderr = launcher.communicate(timeout=TIMEOUT)
        finally:
            if launcher.poll() is None:
                launcher.terminate()  # it ends those that it launched; a launcher that is killed leaves them behind
    return subprocess.CompletedProcess(command, launcher.returncode, stdout, stderr)
