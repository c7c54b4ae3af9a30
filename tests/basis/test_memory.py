"""Freed memory is kept for the next tensors, or goes back to the system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from basis.memory import keep_freed_memory, release_memory

# Pages of 16 blocks of 64 MB that the system had to provide. Each block is freed before the next.
FAULTS = """
import resource, sys
from basis.memory import keep_freed_memory
from pipeline.cli import entry
def faults():
    size = 2**26
    for _ in range(8):  # the heap grows with the first ones
        b"x" * size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        b"x" * size
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return 0
if "program" in sys.argv:
    entry.main = faults
    sys.exit(entry.program())
if "keep" in sys.argv:
    assert keep_freed_memory({})
faults()
"""


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux counts resident pages in /proc, and only glibc has the call"
)
def test_freed_maps_do_not_stay_resident():
    maps = [torch.ones(2**18) for _ in range(400)]  # 1 MB each: the C library keeps maps of this size
    last = [torch.ones(2**18) for _ in range(4)]
    full = resident_megabytes()
    del maps
    release_memory()
    assert resident_megabytes() < full - 350
    assert all(bool(each.all()) for each in last)


def faults(word: str) -> int:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name and "GLIBC" not in name}
    command = [sys.executable, "-c", FAULTS, word]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc, the C library of Linux, has the call")
def test_the_memory_of_large_blocks_is_kept():
    many = faults("default")
    assert 10 * faults("keep") < many
    assert 10 * faults("program") < many


def test_the_settings_of_a_user_stay():
    assert not keep_freed_memory({"MALLOC_TRIM_THRESHOLD_": "1000"})
    assert not keep_freed_memory({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
