"""The command that merges reports, as a user calls it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.artifact import load
from tests.support.networks import write_module, write_npz
from tests.support.program import call_program, run_program
from tests.support.report_schema import read_report

NETWORK = ("--model", "tiny_net:make", "--data", "colours.npz", "--epochs", "0", "--basis", "cosine")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with runs: `a` and `b` of two seeds, `c` of another config, `other` on other data."""
    folder = tmp_path_factory.mktemp("runs")
    write_module(folder)
    write_npz(folder / "colours.npz")
    runs = {"a": ["--bits", "8,4"], "b": ["--bits", "8,4", "--seed", "1"], "c": ["--bits", "4"]}
    for name, words in runs.items():
        config = "5,3,3" if name == "c" else "3,2,2"
        done = call_program(folder, "--config", config, *NETWORK, *words, "--out", name)
        assert done.returncode == 0, done.stderr
    done = call_program(folder, "--config", "3,2,2", *NETWORK, "--bits", "4", "--limit-test", "50", "--out", "other")
    assert done.returncode == 0, done.stderr
    return folder


def report(folder: Path) -> dict:
    return read_report(folder)


def test_rows_of_all_runs_and_their_seeds(here):
    done = run_program(here, "report", "a", "b", "c", "--out", "merged")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("merged/report.md\n")
    merged = report(here / "merged")
    assert [(row["config"], row["bits"], row["settings"]["seed"]) for row in merged["rows"]] == [
        *(("3,2,2", bits, seed) for seed in (0, 1) for bits in (8, 4)),
        ("5,3,3", 4, 0),
    ]
    originals = [row for name in "abc" for row in report(here / name)["rows"]]
    for row, original in zip(merged["rows"], originals, strict=True):
        assert row["top1_quant"] == original["top1_quant"]
        assert (here / "merged" / row["artifact"]).stat().st_size / 1e6 == row["size_mb"]
    text = (here / "merged" / "report.md").read_text()
    assert "## Several seeds" in text
    assert text.count("python run_pipeline.py") == 3
    assert "seriesquant report a b c --out merged" in text
    assert (here / "merged" / "plots" / "size_top1.png").stat().st_size > 1000


def test_copies_need_no_other_folder(here):
    assert call_program(here, "report", "a", "c", "--out", "copied", "--copy").returncode == 0
    (row, *_) = report(here / "copied")["rows"]
    assert row["artifact"] == "artifacts/a/cosine-3,2,2-8.safetensors"
    sys.path.insert(0, str(here))
    try:
        load(here / "copied" / row["artifact"], allow_import=True)
    finally:
        sys.path.remove(str(here))
        sys.modules.pop("tiny_net", None)


def test_a_copy_of_a_runs_report_grows(here):
    """As a job of every night: the first time there is one run."""
    assert call_program(here, "report", "a", "--out", "nightly").returncode == 0
    done = call_program(here, "report", "a", "b", "--out", "nightly")
    assert done.returncode == 0, done.stderr
    assert [source["name"] for source in report(here / "nightly")["sources"]] == ["../a", "../b"]


def test_merging_into_a_merged_report_adds_to_it(here):
    assert call_program(here, "report", "a", "b", "--out", "growing").returncode == 0
    assert call_program(here, "report", "growing", "c", "--out", "growing").returncode == 0
    assert [source["name"] for source in report(here / "growing")["sources"]] == ["../a", "../b", "../c"]
    moved = call_program(here, "report", "growing", "--out", "deep/moved")
    assert moved.returncode == 0
    assert (here / "deep/moved" / report(here / "deep/moved")["rows"][-1]["artifact"]).is_file()


def test_a_runs_own_report_counts_and_not_what_an_earlier_merge_has_of_it(here):
    shutil.copytree(here / "a", here / "again")
    assert call_program(here, "report", "again", "c", "--out", "kept").returncode == 0
    repeated = report(here / "again")
    repeated["rows"][0]["sha256"] = "0" * 64
    (here / "again" / "report.json").write_text(json.dumps(repeated))
    for words in (["again", "kept"], ["kept", "again"]):
        done = call_program(here, "report", *words, "--out", "newer")
        assert done.returncode == 0, done.stderr
        merged = report(here / "newer")
        assert [source["name"] for source in merged["sources"]] == ["../again", "../c"]
        assert merged["rows"][0]["sha256"] == "0" * 64


def test_one_run_is_rendered_again(here):
    before = {path: path.read_bytes() for path in (here / "a").rglob("*") if path.is_file()}
    (here / "a" / "report.md").unlink()
    (here / "a" / "report.html").unlink()
    done = call_program(here, "report", "a")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "a/report.md")
    assert {path: path.read_bytes() for path in (here / "a").rglob("*") if path.is_file()} == before
    for _ in range(2):
        assert call_program(here, "report", "a", "--out", "elsewhere").returncode == 0
    assert report(here / "elsewhere")["rows"][0]["artifact"] == "../a/artifacts/cosine-3,2,2-8.safetensors"


@pytest.mark.parametrize(
    ("words", "code", "terms"),
    [
        (
            ["a", "other", "--out", "x"],
            2,
            ("report", "../other", "../a", "test_images", "50", "61"),
        ),
        (["a", "b"], 2, ("--out", "missing", "allowed", "--copy")),
        (["a", "--copy"], 2, ("--out", "missing")),
        (["a", "b", "--out", "c"], 2, ("--out", "c ", "folder of a run", "allowed", "merged")),
        (["a", "--out", "c"], 2, ("--out", "c ", "folder of a run")),
        (["a", "c", "--out", "c"], 2, ("--out", "c ", "folder of a run")),
        (["a", "b", "--out", "failed"], 2, ("--out", "failed", "run that is not done", "report.json", "allowed")),
        (["a", "b", "--out", "begun"], 2, ("--out", "begun", "run that is not done", ".seriesquant.lock", "allowed")),
        ([], 2, ("missing", "RUN...", "allowed")),
        (["a", "--out", "a/report.json/x"], 1, ("report", "a/report.json/x", "report.json is a file", "another --out")),
        (
            ["a", "absent", "--out", "x"],
            4,
            ("report", "absent", "report.json", "allowed"),
        ),
        (["a/report.md"], 4, ("report", "a/report.md", "report.json", "allowed")),
        (["a", "damaged", "--out", "x"], 4, ("report", "damaged/report.json", "cannot be read")),
        (
            ["a", "failed", "--out", "x"],
            4,
            ("report", "failed/report.json", "no space", "allowed"),
        ),
    ],
)
def test_what_cannot_be_merged_is_one_sentence(here, words, code, terms):
    for name in ("damaged", "failed", "begun"):
        (here / name).mkdir(exist_ok=True)
    (here / "begun" / ".seriesquant.lock").touch()
    (here / "damaged" / "report.json").write_bytes((here / "a" / "report.json").read_bytes()[:-100])
    (here / "failed" / "report.json").write_text(
        json.dumps(report(here / "a") | {"status": "failed", "error": {"message": "no space"}})
    )
    before = (here / "c" / "report.json").read_bytes()
    done = call_program(here, "report", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert [term for term in terms if term not in done.stderr] == []
    assert done.stderr.count("\n") == 1
    assert not (here / "x").exists()
    assert (here / "c" / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    "words", [["c\udcff", "--out", "x"], ["a", "c\udcff", "--out", "x"], ["a", "--out", "x\udcff"]]
)
def test_names_that_are_no_text_are_refused_where_the_report_would_hold_them(here, words):
    shutil.copytree(here / "c", here / "c\udcff", dirs_exist_ok=True)
    done = call_program(here, "report", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert all(term in done.stderr for term in ("\\udcff", "no text", "allowed", "UTF-8"))
    assert not (here / words[-1]).exists()
    assert call_program(here, "report", "c\udcff").returncode == 0


def test_a_missed_gate_is_exit_code_3(here):
    gate = {
        "max_drop": 0.5,
        "max_size_mb": None,
        "targets": 0,
        "passed": False,
        "failures": ["cosine 3,2,2 at 4 bits loses 2 points"],
    }
    (here / "gated").mkdir(exist_ok=True)
    (here / "gated" / "report.json").write_text(json.dumps(report(here / "a") | {"gate": gate, "exit_code": 3}))
    done = call_program(here, "report", "gated", "--out", "regated")
    assert done.returncode == 3
    assert report(here / "regated")["gate"] == gate


def test_files_that_are_gone_are_a_warning(here):
    for name in ("baseline.safetensors", "cosine-3,2,2-4.onnx"):
        (here / "other" / "artifacts" / name).unlink()
    done = call_program(here, "report", "other", "--out", "incomplete")
    assert done.returncode == 0
    assert all(term in done.stderr for term in ("../other/artifacts/baseline.safetensors", "1 more"))
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_no_report_is_named(here):
    done = call_program(here, "report", "a/report.md", "--out", "no")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "a/report.md is a file; allowed: the output folder of a finished run, or its report.json" in done.stderr
