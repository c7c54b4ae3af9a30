"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from basis.memory import release_memory


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
