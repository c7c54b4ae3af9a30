"""Start programs in several processes, as a user would: torchrun on this machine, gloo, a free port."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from pipeline.runtime.launcher import without_launch
from tests.support.forking import fork

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


def fork_several(count: int, work: Callable[..., object], *arguments: object) -> list[int | None]:
    """Run a function in several forked processes that find one another as torchrun's do; return their exit codes.

    As torchrun's agent does, this process serves the store in which they meet, so that the port is chosen when it is
    opened.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    processes = []
    for rank in range(count):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**place, "WORLD_SIZE": count, "RANK": rank, "LOCAL_RANK": rank}.items():
                patch.setenv(name, str(value))
            processes.append(fork(work, *arguments))
    for process in processes:
        process.join(TIMEOUT)
    return [process.exitcode for process in processes]
