"""Command lines that are refused before a run begins: report, log, and modules that stay unloaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.cli.entry import log_format_of
from tests.support.report_schema import read_report

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "3,3,3,2", "--bits", "9", "--out", "o"],
        ["--config", "3,3,3,2", "--bits", "9", "--out=o"],
        ["run", "--config", "3,3,3,2", "--out", "first", "--epoch", "3", "--out", "o"],
        ["--options", "o.yaml"],
        ["--options", "o.toml", "--log-format", "json"],
        ["--options", "absent.yaml", "--out", "o"],
        ["--options", "o.yaml", "--out", "o", "spare"],
        ["--out", "o"],
        ["--out", "o", "--bits"],
    ],
)
def test_a_refused_command_that_names_its_folder_leaves_a_report(tmp_path, monkeypatch, capsys, argv) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.yaml").write_text("config: 3,3,3,2\nout: o\nepoch: 3\n")
    (tmp_path / "o.toml").write_text('config = "3,3,3,2"\nout = "o"\nbits = 1\n')
    assert main(argv) == 2
    report = read_report(tmp_path / "o")
    assert (report["status"], report["exit_code"], report["error"]["type"]) == ("failed", 2, "OptionsError")
    assert report["error"]["message"] in capsys.readouterr().err
    assert (report["run"]["out"], report["run"]["options"]) == ("o", None)
    assert report["run"]["command"].endswith(argv[-1])


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "3,3,3,2", "--bits", "9"],
        ["--config", "3,3,3,2", "--bits", "9", "--out", "o", "--dry-run"],
        ["--config", "3,3,3,2", "--bits", "9", "--out", ""],
        ["--config", "3,3,3,2", "--bits", "9", "--out", "--epochs"],
        ["--config", "3,3,3,2", "--bits", "9", "--options", "torn.yaml"],
        ["export", "a.safetensors", "--format", "wav", "--out", "o"],
        ["rum", "--out", "o"],
    ],
)
def test_otherwise_nothing_is_written(tmp_path, monkeypatch, argv) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.yaml").write_text("out: [\n")
    assert main(argv) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["torn.yaml"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--config", "3,3,3,2", "--bits", "9", "--out", str(tmp_path / "file" / "o")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --bits: got '9'; allowed: 2 to 8")
    assert err.count("\n") == 1


def test_the_log_format_is_known_before_the_options_are(tmp_path) -> None:
    (tmp_path / "o.yaml").write_text("log-format: json\n")
    (tmp_path / "list.yaml").write_text("- json\n")
    file = ["--options", str(tmp_path / "o.yaml")]
    assert log_format_of(["--log-format", "json"]) == log_format_of(["run", "--log-format=json"]) == "json"
    assert log_format_of(file) == "json"
    assert log_format_of([*file, "--log-format", "text"]) == "text"
    assert log_format_of(["--options", str(tmp_path / "list.yaml")]) == "text"
    assert {log_format_of(argv) for argv in ([], ["--log-format", "xml"], ["inspect", "--log-format", "json"])} == {
        "text"
    }


@pytest.mark.parametrize(
    "argv", [["--config", "3,x", "--log-format", "json"], ["--log-format", "json", "--zzz", "--config", "3,3,3,2"]]
)
def test_the_error_line_is_json_where_that_was_asked_for(capsys, argv) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert (out, line["level"], line["event"], line["exit_code"]) == ("", "error", "error", 2)


ANSWERED_AT_ONCE = [
    ["--help"],
    ["schema"],
    ["--config", "3,3,3,2", "--bits", "9", "--out", "o"],
    ["--options", "absent.yaml", "--out", "o"],
    ["inspect", "--zzz"],
]


def test_torch_is_not_loaded_to_answer_at_once(tmp_path) -> None:
    heavy = ["torch", "accelerate", "onnx", "onnxruntime", "sklearn", "matplotlib", "altair", "vl_convert", "brevitas"]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.cli import main\n"
        f"for argv in {ANSWERED_AT_ONCE!r}:\n"
        f"    main(argv); print('loaded', [name for name in {heavy} if name in sys.modules], argv, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = [line for line in done.stderr.splitlines() if line.startswith("loaded ")]
    assert loaded == [f"loaded [] {argv}" for argv in ANSWERED_AT_ONCE]
