"""Exit codes, and the report of runs that fail, in the process and as the command that users run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from basis.errors import CompressionError, NumericalError
from pipeline.errors import BusyError, ClusterError, DataError, LostProcessError, OnnxError, OptionsError
from pipeline.failure import EXIT_CODES, FOLDER_LOCK, Failure, FailureReporter, failure_of
from pipeline.options.options import Options
from pipeline.runtime.locks import locked
from pipeline.runtime.signals import HungUp, Terminated
from tests.support.networks import write_module, write_npz
from tests.support.program import call_program, run_program
from tests.support.report_schema import mistakes, read_report

ROOT = Path(__file__).parents[2]
RUN = ("--config", "3,2,2", "--bits", "4", "--model", "tiny_net:make", "--data", "colours.npz", "--epochs", "0")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OptionsError("wrong"), Failure("OptionsError", "wrong", 2, True)),
        (OnnxError("no ONNX form"), Failure("OnnxError", "no ONNX form", 2, True)),
        (CompressionError("no such layer"), Failure("CompressionError", "no such layer", 2, True)),
        (NumericalError("not finite"), Failure("NumericalError", "not finite", 5, True)),
        (DataError("torn\nfile"), Failure("DataError", "torn file", 4, True)),
        (OSError(28, "No space left", "o/r.md"), Failure("OSError", "No space left: o/r.md", 1, True)),
        (BusyError("in use"), Failure("BusyError", "in use", 1, True)),
        (ClusterError("no Ray"), Failure("ClusterError", "no Ray", 1, True)),
        (LostProcessError("gone"), Failure("LostProcessError", "gone", 1, True)),
        (TimeoutError("slow"), Failure("TimeoutError", "slow", 1, True)),
        (KeyError("by us"), Failure("KeyError", "internal error: KeyError: 'by us'", 1, False)),
        (SystemExit(0), Failure("SystemExit", "internal error: SystemExit: 0", 1, False)),
    ],
)
def test_an_error_has_one_code_and_one_sentence(error: BaseException, expected: Failure) -> None:
    assert failure_of(error) == expected
    assert expected.exit_code in EXIT_CODES
    assert expected.status == "failed"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [(HungUp(), 129, "hung up"), (KeyboardInterrupt(), 130, "interrupted"), (Terminated(), 143, "terminated")],
)
def test_an_interruption_names_the_way_to_resume(error: BaseException, code: int, word: str) -> None:
    failure = failure_of(error)
    assert (failure.exit_code, failure.status, failure.known) == (code, "interrupted", True)
    assert code in EXIT_CODES
    assert failure.message.startswith(f"{word}; ")
    assert "run the same command again" in failure.message


def reporter(folder: Path, **options: object) -> FailureReporter:
    return FailureReporter(Options(config="3,3,3,2", out=folder, **options))


def fail(folder: Path, error: BaseException, **options: object) -> None:
    with pytest.raises(type(error)), reporter(folder, **options).watching():
        raise error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OptionsError("a"), "failed", 2),
        (DataError("b\nc"), "failed", 4),
        (OSError(28, "No space left on device"), "failed", 1),
        (ZeroDivisionError("by us"), "failed", 1),
        (NumericalError("not finite"), "failed", 5),
        (HungUp(), "interrupted", 129),
        (KeyboardInterrupt(), "interrupted", 130),
        (Terminated(), "interrupted", 143),
    ],
)
def test_every_way_to_fail_leaves_a_report(tmp_path, error, status, code) -> None:
    fail(tmp_path / "o", error, max_drop=1, max_size_mb=2)
    report = read_report(tmp_path / "o")
    assert (report["status"], report["exit_code"]) == (status, code)
    assert (report["error"]["type"], report["error"]["exit_code"]) == (type(error).__name__, code)
    assert report["gate"] == {"max_drop": 1, "max_size_mb": 2, "targets": 0, "passed": None, "failures": []}
    assert report["run"]["options"]["config"] == ["3,3,3,2"]
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["report.json"]


def test_the_first_report_of_a_failure_stays(tmp_path) -> None:
    reports = reporter(tmp_path)
    with pytest.raises(DataError), reports.watching(), reports.watching(holding=True):
        raise DataError("torn")
    written = (tmp_path / "report.json").stat().st_ino
    with pytest.raises(DataError), reports.watching():
        raise DataError("later")
    assert (tmp_path / "report.json").stat().st_ino == written


def test_a_folder_that_another_run_uses_is_left_to_it(tmp_path) -> None:
    fail(tmp_path / "o", BusyError("in use"))
    assert not (tmp_path / "o").exists()
    with pytest.raises(BusyError), reporter(tmp_path / "o").watching(holding=True):
        raise BusyError("the store is in use")
    assert read_report(tmp_path / "o")["error"]["type"] == "BusyError"


def test_a_failing_start_leaves_the_folder_to_the_run_that_holds_its_lock(tmp_path) -> None:
    (tmp_path / "report.json").write_text('{"status": "done"}')
    with locked(tmp_path / FOLDER_LOCK, "the folder", 0):
        holder = (tmp_path / FOLDER_LOCK).read_text()
        fail(tmp_path, DataError("torn"))
        done = call_program(tmp_path, *RUN, "--no-such-flag", "--out", str(tmp_path))
        assert (done.returncode, "another run uses the output folder" in done.stderr) == (2, True)
        assert (tmp_path / FOLDER_LOCK).read_text() == holder
        assert {path.name for path in tmp_path.iterdir()} == {"report.json", FOLDER_LOCK}
        assert (tmp_path / "report.json").read_text() == '{"status": "done"}'
    fail(tmp_path, DataError("torn"))
    assert read_report(tmp_path)["status"] == "failed"


def test_a_failing_start_leaves_a_folder_whose_lock_it_cannot_open(tmp_path, monkeypatch, caplog) -> None:
    """Another user's run may hold the lock."""
    (tmp_path / "report.json").write_text('{"status": "done"}')
    (tmp_path / FOLDER_LOCK).touch()

    def refused(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.failure.locked", refused)
    with caplog.at_level("INFO"):
        fail(tmp_path, DataError("torn"))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", FOLDER_LOCK}
    assert (tmp_path / "report.json").read_text() == '{"status": "done"}'
    assert caplog.text.count(f"no failed report is written: another run may hold {tmp_path / FOLDER_LOCK}, ") == 1


def test_a_run_that_ends_well_writes_nothing_here(tmp_path) -> None:
    with reporter(tmp_path / "o").watching():
        pass
    assert not (tmp_path / "o").exists()


def test_a_finished_report_is_kept_through_any_number_of_failures(tmp_path) -> None:
    (tmp_path / "report.json").write_text('{"status": "done", "mark": 1}')
    (tmp_path / "report.md").write_text("old")
    for error in (DataError("first"), KeyboardInterrupt(), DataError("third")):
        fail(tmp_path, error)
    assert read_report(tmp_path)["error"]["message"] == "third"
    assert json.loads((tmp_path / "previous-report.json").read_text()) == {"status": "done", "mark": 1}
    assert (tmp_path / "report.md").read_text() == "old"


@pytest.mark.parametrize("content", ['{"schema_version": 1, "rows": []}', "not JSON", "[]"])
def test_what_does_not_say_that_it_failed_is_kept(tmp_path, content) -> None:
    (tmp_path / "report.json").write_text(content)
    fail(tmp_path, DataError("torn"))
    assert (tmp_path / "previous-report.json").read_text() == content


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    fail(tmp_path / "file" / "o", DataError("torn"))
    fail(tmp_path / ("x" * 300), DataError("torn"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_keeps_the_finished_report(tmp_path, monkeypatch) -> None:
    (tmp_path / "report.json").write_text('{"status": "done"}')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fail(tmp_path, DataError("torn"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.json": '{"status": "done"}'}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_npz(folder / "colours.npz")
    write_module(folder)
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    return folder


@pytest.mark.parametrize(
    ("change", "code", "kind"),
    [
        (("--config", "3,3"), 2, "OptionsError"),
        (("--model", "no_such:thing"), 2, "OptionsError"),
        (("--data", "broken.npz"), 4, "DataError"),
        (("--weights", "nowhere.th"), 4, "DataError"),
    ],
)
def test_a_run_that_fails_on_its_way(folder, change, code, kind) -> None:
    done = call_program(folder, *RUN, *change, "--out", f"fails{change[0]}")
    report = read_report(folder / f"fails{change[0]}")
    assert done.returncode == report["exit_code"] == code, done.stderr
    assert report["error"]["type"] == kind
    assert done.stderr.splitlines()[-1] == f"error: {report['error']['message']}"
    assert report["baseline"] is None
    assert report["rows"] == []


def test_a_defect_leaves_a_report_too(folder) -> None:
    (folder / "defect.py").write_text("def make(num_classes=4):\n    raise SystemExit(0)\n")
    done = run_program(folder, *RUN, "--model", "defect:make", "--out", "defect")
    report = read_report(folder / "defect")
    assert done.returncode == report["exit_code"] != 0
    assert f"error: {report['error']['message']}" in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "kind"), [(signal.SIGTERM, 143, "Terminated"), (signal.SIGHUP, 129, "HungUp")]
)
def test_a_signal_leaves_an_interrupted_report(folder, number, code, kind) -> None:
    (folder / "slow.py").write_text(
        "import time\n\ndef make(num_classes=4):\n    print(1, flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *RUN, "--model", "slow:make", "--out", "slow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        signal.signal(number, before)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == code, stderr
    report = read_report(folder / "slow")
    assert (report["status"], report["exit_code"], report["error"]["type"]) == ("interrupted", code, kind)


def test_a_repeated_failure_after_a_finished_run(folder) -> None:
    assert call_program(folder, *RUN, "--out", "kept").returncode == 0
    finished = read_report(folder / "kept")
    artifacts = {path.name: path.read_bytes() for path in (folder / "kept" / "artifacts").iterdir()}
    for _ in range(2):
        assert call_program(folder, *RUN, "--out", "kept", "--data", "nowhere.npz").returncode == 4
    assert read_report(folder / "kept")["status"] == "failed"
    previous = json.loads((folder / "kept" / "previous-report.json").read_text())
    assert (mistakes(previous), previous) == ([], finished)
    assert {path.name: path.read_bytes() for path in (folder / "kept" / "artifacts").iterdir()} == artifacts
    assert "colours" in (folder / "kept" / "report.md").read_text()
