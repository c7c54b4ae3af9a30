"""The command that prints the poster's tables, as a user calls it."""

import json

import pytest

from tests.support.program import call_program, run_program
from tests.support.reports import make_dataset, make_report, make_row


def write(folder, name, **changes):
    """A run of ResNet-20 with the poster's baseline; of another network or data with the changes."""
    row = make_row("cosine", "3,3,3,2", 8, 87.0, fit="weights", epochs=0, top1_pre=changes.pop("top1_pre", 87.22))
    report = make_report([row], **({"model": "resnet20", "dataset": make_dataset("cifar10", 10)} | changes))
    report.baseline.top1 = 91.73
    (folder / name).mkdir()
    (folder / name / "report.json").write_text(json.dumps(report.model_dump()))


@pytest.fixture
def here(tmp_path):
    write(tmp_path, "a")
    return tmp_path


def test_the_tables_go_to_stdout_or_into_a_folder(here):
    done = run_program(here, "poster", "a")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# The poster's tables")
    assert "weights fit, seed 0, 0 epochs" in done.stdout
    written = call_program(here, "poster", "a/report.json", "--out", "tables")
    assert (written.returncode, written.stdout) == (0, "tables/poster.md\n")
    assert (here / "tables" / "poster.md").read_text() == done.stdout
    refused = call_program(here, "poster", "--out", "a/report.json")
    assert refused.returncode == 1
    assert "a/report.json cannot be written: report.json is a file; allowed" in refused.stderr


def test_a_run_of_something_else_is_a_warning(here):
    write(here, "digits", model="resnet18", dataset=make_dataset("digits", 10))
    done = call_program(here, "poster", "a", "digits", "a")
    alone = call_program(here, "poster", "a")
    assert (done.returncode, done.stdout) == (0, alone.stdout)
    assert all(term in done.stderr for term in ("digits fills no cell", "ResNet-18 on digits"))
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "terms"),
    [
        (["a", "other"], 2, ("error: poster: other and a differ in Pre Top1", "3,3,3,2", "87.1", "87.22", "allowed")),
        (["a", "absent"], 4, ("error: poster: absent has no report.json", "allowed")),
        (["a", "--bits", "8"], 2, ("--bits",)),
    ],
)
def test_what_cannot_be_used_is_one_sentence(here, words, code, terms):
    write(here, "other", top1_pre=87.1)
    done = call_program(here, "poster", *words, "--out", "x")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert [term for term in terms if term not in done.stderr] == []
    assert done.stderr.count("\n") == 1
    assert not (here / "x").exists()
