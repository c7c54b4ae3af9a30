"""A run repeated from the options that it left, as the command that users run."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.options.options import Options
from tests.support.networks import write_module, write_npz
from tests.support.program import call_program, run_program
from tests.support.report_schema import read_report

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a folder with spaces")
    write_npz(folder / "it's data.npz", train=384)
    write_module(folder)
    return folder


def untimed(report: dict) -> dict:
    report["run"] |= {"duration_s": None, "stages": None}
    return report


@pytest.mark.parametrize(
    ("toml", "flags"),
    [
        (
            'config = ["5x1,3x1", "dense"]\nmodel = "depthwise_net:make"\ndata = "it\'s data.npz"\nbits = [8]\n'
            'dense-bits = 3\nepochs = 1\nlr = 1e-2\nmax-drop = 99.5\nout = "runs/x y"\n',
            (),
        ),
        ('config = "3,2,2"\nmodel = "tiny_net:make"\nbits = 2\n', ("--data", "it's data.npz", "--no-distill")),
    ],
)
def test_a_run_is_repeated_by_the_options_that_it_left(folder, toml, flags) -> None:
    source = (folder / "tiny_net.py").read_text()
    (folder / "depthwise_net.py").write_text(
        source.replace("Conv2d(3, 8, 5, padding=2, bias=False)", "Conv2d(3, 3, 5, padding=2, groups=3, bias=False)")
        .replace("BatchNorm2d(8)", "BatchNorm2d(3)")
        .replace('Conv2d(8, 8, 3, padding="same", groups=8)', 'Conv2d(3, 3, 3, padding="same", groups=3)')
        .replace("Conv2d(8, 12, 1)", "Conv2d(3, 12, 1)")
    )
    (folder / "o.toml").write_text(toml)
    first = call_program(folder, "--options", "o.toml", "--epochs", "1", "--limit-train", "64", *flags)
    assert first.returncode == 0, first.stderr
    out = Path(first.stdout.splitlines()[-1]).parent
    report, file = read_report(folder / out), (folder / out / "options.yaml").read_bytes()
    assert Options(**yaml.safe_load(file)).model_dump(mode="json") == report["run"]["options"]
    digests = {path.name: path.read_bytes() for path in (folder / out / "artifacts").iterdir()}
    second = call_program(folder, "--options", str(out / "options.yaml"))
    assert second.returncode == 0, second.stderr
    assert untimed(read_report(folder / out)) == untimed(report)
    assert (folder / out / "options.yaml").read_bytes() == file
    assert {path.name: path.read_bytes() for path in (folder / out / "artifacts").iterdir()} == digests


def test_flags_win_over_the_file_and_every_line_of_the_log_is_json(folder) -> None:
    options = {
        "config": "3,2,2",
        "model": "tiny_net:make",
        "data": "it's data.npz",
        "bits": 4,
        "epochs": 1,
        "lr": 0.001,
    }
    (folder / "o.yaml").write_text(yaml.safe_dump(options | {"log-format": "json"}))
    done = run_program(folder, "--options", "o.yaml", "--bits", "8", "--max-size-mb", "0.0001", "--out", "json")
    assert done.returncode == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "event", "message"} <= set(line) for line in lines)
    assert {line["event"] for line in lines} == {"stage", "progress", "result", "log"}
    assert [line["message"] for line in lines if line["level"] == "warning"] == [
        f"gate missed: {failure}" for failure in read_report(folder / "json")["gate"]["failures"]
    ]
    training = [line for line in lines if line["event"] == "progress" and line["ended"]]
    assert all(line["done"] == line["total"] for line in training)
    assert done.stdout.endswith("json/report.md\n")
    assert [row["bits"] for row in read_report(folder / "json")["rows"]] == [8]


def test_a_failure_ends_with_a_json_line(folder) -> None:
    (folder / "o.yaml").write_text("{config: '3,2,2', model: 'tiny_net:make', log-format: json}")
    done = call_program(folder, "--options", "o.yaml", "--data", "nowhere.npz", "--out", "nowhere")
    assert (done.returncode, done.stdout) == (4, "")
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("error", 4)
    assert last["message"] == read_report(folder / "nowhere")["error"]["message"]
