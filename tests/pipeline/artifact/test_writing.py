"""Writing of artifacts: a full disk, a killed process, an unwritable folder."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.artifact import read_artifact, write_artifact
from pipeline.artifact.record import NetworkRecord
from tests.pipeline.artifact.samples import IDENTITY, compressed

ROOT = Path(__file__).parents[3]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reports.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_artifact(compressed(), IDENTITY, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


WRITER = """
import sys
from pathlib import Path
from reports.files import write_atomically
versions = [Path(name).read_bytes() for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    for version in versions:
        write_atomically(Path(sys.argv[1]), version)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    """SIGKILL at moments that differ; what is under the artifact's name is always one whole version of it."""
    for value in (1.0, 2.0):
        record = NetworkRecord((), {"a": torch.full((500_000,), value)})
        write_artifact(record, IDENTITY, tmp_path / f"version{value}")
    versions = [str(tmp_path / f"version{value}") for value in (1.0, 2.0)]
    path = tmp_path / "out" / "a.safetensors"
    for delay in (0.0, 0.003, 0.011, 0.05):
        command = [sys.executable, "-c", WRITER, str(path), *versions]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay)
            process.kill()
        if path.exists():
            assert read_artifact(path)[0].floats["a"].unique().tolist() in ([1.0], [2.0])
    assert all(other == path or other.name.endswith(".seriesquant-part") for other in path.parent.glob("*"))


def test_an_unwritable_folder_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_artifact(compressed(), IDENTITY, tmp_path / "file" / "a.safetensors")
    assert (tmp_path / "file").read_bytes() == b""
