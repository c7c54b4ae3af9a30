import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime import environment
from pipeline.runtime.environment import git_commit, hardware, library_versions

ROOT = Path(__file__).parents[3]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_versions_of_what_decides_the_figures() -> None:
    versions = library_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"seriesquant", "torch", "numpy", "pillow", "scikit-learn", "onnxscript"} < set(versions)
    assert {name for name, version in versions.items() if version == "not installed"} <= {"torchao"}


def test_a_library_that_is_missing_is_said(monkeypatch) -> None:
    monkeypatch.setattr(environment, "LIBRARIES", ("no-such-library",))
    assert library_versions()["no-such-library"] == "not installed"


def test_the_commit_and_whether_the_code_was_changed(checkout) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert git_commit(checkout) == head
    (checkout / "run.log").write_text("untracked")
    assert git_commit(checkout) == head
    (checkout / "code.py").write_text("2\n")
    assert git_commit(checkout) == f"{head}-dirty"


def test_the_commit_is_that_of_the_code_wherever_git_was_told_to_look(checkout, tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other")))
    assert git_commit(checkout) is not None


def test_code_within_somebody_elses_checkout_has_no_commit(checkout) -> None:
    (checkout / "site-packages").mkdir()
    assert git_commit(checkout / "site-packages") is None


def test_no_git_and_a_git_that_refuses(checkout, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(checkout / "nothing"))
    assert git_commit(checkout) is None
    (checkout / "nothing").mkdir()
    (checkout / "nothing" / "git").write_text("#!/bin/sh\nexit 128\n")
    (checkout / "nothing" / "git").chmod(0o755)
    assert git_commit(checkout) is None


def test_a_git_that_hangs_is_given_up(checkout, monkeypatch) -> None:
    (checkout / "bin").mkdir()
    (checkout / "bin" / "git").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(20)\n")
    (checkout / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(checkout / "bin"))
    assert git_commit(checkout, patience=0.2) is None


def test_the_machine() -> None:
    import torch

    machine = hardware("cpu")
    assert machine["cpu"]
    assert machine["cores"] == len(os.sched_getaffinity(0))
    assert machine["threads"] == torch.get_num_threads()
    assert 0.1 < machine["memory_gb"] < 1e5
    assert machine["accelerator"] is None
    assert hardware("mps")["accelerator"] == "mps"


def test_an_accelerator_has_its_name(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert hardware("cuda:1")["accelerator"] == "GPU of cuda:1"


def test_the_first_core_names_the_cpu(tmp_path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU: 2 GHz\nmodel name\t: Other\n")
    assert hardware(cpuinfo=tmp_path / "cpuinfo")["cpu"] == "Fast CPU: 2 GHz"


def test_values_that_cannot_be_read_are_none(monkeypatch, tmp_path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    for name in ("processor", "machine"):
        monkeypatch.setattr(f"platform.{name}", lambda: "")
    monkeypatch.setattr(os, "sysconf", refuse)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setitem(sys.modules, "torch", None)
    machine = hardware("cuda:0", tmp_path / "missing")
    assert machine["cpu"] is None
    assert (machine["memory_gb"], machine["threads"], machine["accelerator"]) == (None, None, None)
    assert machine["cores"] == os.cpu_count()
