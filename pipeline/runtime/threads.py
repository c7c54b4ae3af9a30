"""The number of CPU threads, and how they wait for each other."""

import os
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")
TOPOLOGY: Final = Path("/sys/devices/system/cpu")
_THREADS, _WAIT, _SPIN = "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the defaults of OpenMP's variables, before PyTorch is imported; set variables are kept.

    Threads that wait sleep instead of spinning. On a machine whose cores other programs use, two spinning threads were
    5 to 18 times slower than one, and two sleeping threads were not. The number of threads decides the last bits of
    results, so it does not follow the load.

    Args:
        environment: Name -> value; the process's environment by default.
    """
    if _SPIN not in environment:
        environment.setdefault(_WAIT, "PASSIVE")
    environment.setdefault(_THREADS, str(default_threads()))


def default_threads(
    cgroup: Path = CGROUP, own: Path = OWN_CGROUP, topology: Path = TOPOLOGY, cpus: frozenset[int] | None = None
) -> int:
    """Return the number of physical cores that this process may use, within the CPU quota of its container.

    Args:
        cgroup: Mount point of control groups.
        own: The file that lists the process's control groups.
        topology: The folder that describes the CPUs.
        cpus: The CPUs that the process may use; by default those of its affinity.
    """
    usable = usable_cpus() if cpus is None else cpus
    cores = len({_siblings(topology, cpu) for cpu in usable})
    quota = cpu_quota(cgroup, own)
    return max(1, cores if quota is None else min(cores, int(quota)))


def usable_cpus() -> frozenset[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_quota(cgroup: Path = CGROUP, own: Path = OWN_CGROUP) -> float | None:
    """Return the CPUs that the control groups of this process allow; None without a limit.

    Args:
        cgroup: Mount point of control groups, version 1 or 2.
        own: The file that lists the process's control groups, one ``ID:CONTROLLERS:PATH`` a line.
    """
    found = [
        quota
        for controllers, path in _groups(own)
        for folder in _with_parents(cgroup, controllers, path)
        if (quota := _quota(folder)) is not None
    ]
    return min(found, default=None)


def load_hint(load: float | None = None, cpus: int | None = None) -> str:
    """Return a hint for a busy machine; empty if fewer than two programs run for each CPU.

    Args:
        load: Average number of running programs in the last minute; the machine's by default.
        cpus: Number of CPUs that the process may use; its affinity by default.
    """
    count = len(usable_cpus()) if cpus is None else cpus
    busy = (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0) if load is None else load
    if busy < 2 * count:
        return ""
    return f"the machine is busy (load {busy:.1f} on {count} CPUs): fewer --threads may be faster"


def excess_hint(threads: int, cpus: float | None = None) -> str:
    """Return a hint if more threads compute than CPUs are there for them; empty otherwise.

    Args:
        threads: Number of threads.
        cpus: CPUs that the process may use, within the quota of its container; those of this process by default.
    """
    count = _allowed_cpus() if cpus is None else cpus
    if threads <= count:
        return ""
    return (
        f"{threads} threads share {count:g} CPU{'' if count == 1 else 's'}, which is slower than one thread for each; "
        "--threads or OMP_NUM_THREADS sets their number"
    )


def _allowed_cpus() -> float:
    quota, count = cpu_quota(), len(usable_cpus())
    return count if quota is None else min(count, max(1.0, quota))


@contextmanager
def thread_count(count: int | None) -> Generator[None]:
    """Set torch's number of threads, and restore it afterwards; None changes nothing."""
    import torch  # only now: OpenMP reads its variables on import

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def _siblings(topology: Path, cpu: int) -> str:
    """Return the CPUs of the same core, as text; the CPU alone if they are not known."""
    return _text(topology / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu)


def _groups(own: Path) -> list[tuple[str, str]]:
    """Return the controllers and the path of each control group that may limit the CPUs; the root if none is listed."""
    lines = [line.split(":", 2) for line in _text(own).splitlines() if line.count(":") >= 2]
    groups = [(names, path) for _, names, path in lines if not names or "cpu" in names.split(",")]
    return groups or [("", "/")]


def _with_parents(cgroup: Path, controllers: str, path: str) -> list[Path]:
    """Return the folders of a group and of all groups around it. In a container, the path may not exist."""
    root = cgroup / controllers if controllers else cgroup
    inner = root / path.lstrip("/")
    return [folder for folder in (inner, *inner.parents) if folder == root or root in folder.parents]


def _quota(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split() or [
        _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = map(float, words)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
