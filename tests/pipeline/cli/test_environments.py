"""The program in poor environments: other encodings, closed pipes, no folder for temporary files, full disks."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.cli.output import print_result
from pipeline.stages import verify
from reports.files import write_atomically
from tests.support.networks import write_module, write_npz
from tests.support.program import ROOT, call_program

COMMAND = [sys.executable, str(ROOT / "run_pipeline.py")]
SMALL = (
    *("--model", "tiny_net:make", "--data", "colours.npz", "--config", "3,2,2"),
    *("--bits", "4", "--epochs", "0", "--no-onnx"),
)
PATIENCE = 600


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a network, data, and a finished run, whose results are in a store."""
    folder = tmp_path_factory.mktemp("environments")
    write_module(folder)
    write_npz(folder / "colours.npz")
    done = call_program(folder, *SMALL, "--out", "first")
    assert done.returncode == 0, done.stderr
    return folder


def start(folder, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SERIESQUANT_CACHE": str(folder / "cache"), **variables}
    command = [*COMMAND, *words]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=stdout, stderr=stderr, timeout=PATIENCE, check=False
    )


def commands(folder):
    artifact = next((folder / "first" / "artifacts").glob("*-4.safetensors"))
    return {
        "run": SMALL,
        "help": ("--help",),
        "inspect": ("inspect", str(artifact)),
        "report": ("report", "first", "--out", "merged"),
        "schema": ("schema",),
        "cache": ("cache", "ls"),
        "evaluate": ("evaluate", str(artifact), "--data", "colours.npz", "--allow-import"),
    }


ASCII, WINDOWS = {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("name", "variables"),
    [("run", ASCII), ("run", WINDOWS), ("help", ASCII), ("inspect", C_LOCALE), ("report", C_LOCALE)],
)
def test_what_an_encoding_lacks_is_replaced(finished, name, variables):
    done = start(finished, *commands(finished)[name], **variables)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.decode(variables.get("PYTHONIOENCODING", "ascii"))


@pytest.mark.parametrize("name", ["run", "inspect"])
def test_a_current_folder_that_was_removed_is_said(finished, tmp_path, name):
    """The libraries of torch end such a process themselves, with another exit code and no report."""
    (tmp_path / "gone").mkdir()
    words = [sys.executable, str(ROOT / "run_pipeline.py"), *commands(finished)[name]]
    words += ["--out", str(tmp_path / "out")] if name == "run" else []
    script = "import os, subprocess, sys; os.rmdir('.'); sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    command = [sys.executable, "-c", script.replace("'.'", "os.getcwd()"), *words]
    done = subprocess.run(command, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert all(term in done.stderr for term in ("error: ", "current folder", "allowed"))
    assert (tmp_path / "out" / "report.json").exists() == (name == "run")


@pytest.mark.parametrize("name", ["run", "help", "inspect", "schema", "cache", "evaluate"])
def test_a_closed_pipe_is_quiet(finished, name):
    read, write = os.pipe()
    os.close(read)
    done = start(finished, *commands(finished)[name], stdout=write)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert not any(word in done.stderr for word in (b"Traceback", b"Broken pipe", b"rror"))


def test_a_log_that_nobody_reads_does_not_end_a_run(finished):
    read, write = os.pipe()
    os.close(read)
    done = start(finished, *SMALL, "--out", "unread", stderr=write)
    os.close(write)
    assert done.returncode == 0
    assert json.loads((finished / "unread" / "report.json").read_text())["status"] == "done"


def test_closed_streams(finished):
    words = shlex.join([*COMMAND, *SMALL, "--out", "closed"])
    done = subprocess.run(
        ["sh", "-c", f"{words} >&- 2>&-"],
        cwd=finished,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SERIESQUANT_CACHE": str(finished / "cache")},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads((finished / "closed" / "report.json").read_text())["status"] == "done"


def test_a_run_whose_results_are_stored_imports_no_library_that_it_does_not_need(finished):
    code = (
        "import sys; from pipeline.cli import main; code = main(sys.argv[1:])\n"
        "print(code, [name for name in ('brevitas', 'torch._dynamo', 'torchvision') if name in sys.modules])"
    )
    variables = {"SERIESQUANT_CACHE": str(finished / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *SMALL, "--out", "stored"],
        cwd=finished,
        env={**os.environ, **variables},
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == b"0 []", done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_a_sentence(finished):
    with Path("/dev/full").open("w") as full:
        done = start(finished, *commands(finished)["inspect"], stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [b"error: No space left on device: stdout"]


def test_a_stream_without_a_file_takes_a_result(capsys):
    print_result("Δ")
    assert capsys.readouterr().out == "Δ\n"


@pytest.mark.usefixtures("fresh_process")
def test_no_folder_for_temporary_files_is_needed(finished, monkeypatch):
    """Neither by this process nor by the fresh one that reloads the artifacts."""
    monkeypatch.setattr(tempfile, "tempdir", str(finished / "missing"))
    variables = {name: str(finished / "missing") for name in ("TMPDIR", "TEMP", "TMP")}
    done = call_program(finished, *SMALL, "--fresh", "--out", "no-tmp", **variables)
    assert done.returncode == 0, done.stderr
    assert not list((finished / "no-tmp").rglob(".*"))[1:], "the lock is the only hidden file"


def test_a_folder_that_fills_up_during_the_reload_is_a_sentence(finished, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "out/images")

    monkeypatch.setattr(verify, "write_atomically", full)
    done = call_program(finished, *SMALL, "--fresh", "--out", "full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: No space left on device: out/images"
    assert json.loads((finished / "full" / "report.json").read_text())["exit_code"] == 1


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomically(tmp_path / "report.md", "text")
    assert caught.value.filename == str(tmp_path / "report.md")
