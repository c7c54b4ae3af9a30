"""The number of threads: affinity, cores and quotas decide it, the load does not."""

import pytest
import torch

from pipeline.runtime.threads import cpu_quota, default_threads, excess_hint, load_hint, prepare_threads, thread_count


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path):
    """Four cores with two CPUs each, and no control group."""
    for cpu in range(8):
        write(tmp_path / "cpus" / f"cpu{cpu}" / "topology" / "thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    write(tmp_path / "own", "0::/\n")
    return tmp_path


def threads(machine, cpus=range(8)):
    return default_threads(machine / "cgroup", machine / "own", machine / "cpus", frozenset(cpus))


def test_one_thread_for_each_core_of_the_affinity(machine):
    assert threads(machine) == 4
    assert threads(machine, [1, 5]) == 1
    assert threads(machine, [0, 1, 4]) == 2
    assert threads(machine, [20, 21]) == 2, "cores that are not described"


@pytest.mark.parametrize(
    ("text", "expected"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 4), ("1600000 100000\n", 4)]
)
def test_a_quota_limits_them(machine, text, expected):
    write(machine / "cgroup" / "cpu.max", text)
    assert threads(machine) == expected


def test_the_smallest_quota_of_all_groups_around_counts(machine):
    write(machine / "own", "0::/pods/this\n")
    write(machine / "cgroup" / "pods" / "this" / "cpu.max", "max 100000\n")
    write(machine / "cgroup" / "pods" / "cpu.max", "150000 100000\n")
    assert cpu_quota(machine / "cgroup", machine / "own") == 1.5


def test_control_groups_of_the_first_version(machine):
    write(machine / "own", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    write(machine / "cgroup" / "cpu,cpuacct" / "cpu.cfs_quota_us", "300000\n")
    write(machine / "cgroup" / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert threads(machine) == 3
    write(machine / "cgroup" / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    assert threads(machine) == 4


def test_a_machine_without_such_files_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "missing") is None


def test_waiting_threads_sleep_and_given_variables_stay():
    environment = {}
    prepare_threads(environment)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    given = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    prepare_threads(given)
    assert given == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    spinning = {"GOMP_SPINCOUNT": "100"}
    prepare_threads(spinning)
    assert "OMP_WAIT_POLICY" not in spinning


def test_a_busy_machine_is_hinted_at():
    assert load_hint(1.5, 2) == ""
    hint = load_hint(9.0, 2)
    assert all(word in hint for word in ("9.0", "2 CPUs", "--threads"))


def test_the_number_is_restored():
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    with thread_count(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_more_threads_than_cpus_are_named():
    assert excess_hint(2, 2) == excess_hint(1, 1.5) == ""
    hint = excess_hint(64, 2)
    assert all(term in hint for term in ("64 threads share 2 CPUs", "slower", "--threads", "OMP_NUM_THREADS"))
    assert "share 1 CPU," in excess_hint(2, 1)
    assert "share 1.5 CPUs," in excess_hint(2, 1.5)
    assert excess_hint(10_000)
