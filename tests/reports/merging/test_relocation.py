import dataclasses
import hashlib

import pytest

from reports.merging.merge import merge
from reports.merging.reading import ReportError, sources
from reports.merging.relocation import Copied, Linked, missing_files, relocated
from tests.support.merging import make_run

A, B = ("cosine", "3,3,3,2", 4, 98.5), ("cosine", "3,3,2,2", 4, 97.5)


@pytest.fixture
def runs(tmp_path):
    """Two runs in folders of the same name, with their files."""
    placed = {}
    for name, row in (("x/run", A), ("y/run", B)):
        ((_, run),) = make_run(name, row).items()
        files = [run.baseline.artifact, run.rows[0].artifact, run.rows[0].onnx]
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{file} of {name}")
        digest = hashlib.sha256(f"{run.rows[0].artifact} of {name}".encode()).hexdigest()
        rows = [run.rows[0].model_copy(update={"sha256": digest})]
        placed[name] = dataclasses.replace(run, path=tmp_path / name, folder=tmp_path / name, rows=rows)
    return placed


def named(report):
    return [report.baseline.artifact, *(file for row in report.rows for file in (row.artifact, row.onnx))]


def copied(runs, out):
    return relocated(merge(runs, "merge"), runs, Copied(out, runs.values()), out)


def test_links_lead_from_the_report_to_the_files(runs, tmp_path) -> None:
    out = tmp_path / "deep" / "out"
    report = relocated(merge(runs, "merge"), runs, Linked(out), out)
    assert report.rows[1].artifact == "../../y/run/artifacts/cosine-3,3,2,2-4.safetensors"
    assert report.run.out == str(out)
    assert missing_files(report, out) == []
    out.mkdir(parents=True)
    assert [(out / file).read_text().split()[0] for file in named(report)] == named(merge(runs, "merge"))
    assert [source.baseline.artifact[:13] for source in report.sources] == ["../../x/run/a", "../../y/run/a"]


def test_copies_of_several_runs_have_separate_folders(runs, tmp_path) -> None:
    out = tmp_path / "out"
    report = copied(runs, out)
    assert [row.artifact for row in report.rows] == [
        "artifacts/run/cosine-3,3,3,2-4.safetensors",
        "artifacts/run-2/cosine-3,3,2,2-4.safetensors",
    ]
    assert (out / report.rows[1].onnx).read_text() == "artifacts/cosine-3,3,2,2-4.onnx of y/run"
    assert missing_files(report, out) == []


def test_copies_of_an_earlier_merge_keep_their_folders(runs, tmp_path) -> None:
    out, (first, second) = tmp_path / "out", runs.items()
    earlier = {source.path.name: source for source in sources(copied(dict([first]), out), out)}
    report = copied(dict([second]) | earlier, out)  # the new run is the first, and its folder has the same name
    assert [row.artifact.split("/")[1] for row in report.rows] == ["run-2", "run"]
    files = [source.baseline.artifact for source in report.sources]
    assert [(out / file).read_text().split()[-1] for file in files] == ["y/run", "x/run"]
    assert [(out / row.artifact).read_text().split()[-1] for row in report.rows] == ["y/run", "x/run"]


def test_a_missing_file_is_listed_and_not_copied(runs, tmp_path) -> None:
    (tmp_path / "x/run" / runs["x/run"].rows[0].onnx).unlink()
    report = relocated(merge(runs, "merge"), runs, Linked(tmp_path / "out"), tmp_path / "out")
    assert missing_files(report, tmp_path / "out") == ["../x/run/artifacts/cosine-3,3,3,2-4.onnx"]
    with pytest.raises(ReportError, match=r"3,3,3,2-4.onnx.*copied.*--copy"):
        copied(runs, tmp_path / "out")


def test_another_file_is_not_copied(runs, tmp_path) -> None:
    (tmp_path / "y/run" / runs["y/run"].rows[0].artifact).write_text("other bytes")
    with pytest.raises(ReportError, match=r"3,3,2,2-4.safetensors.*SHA-256"):
        copied(runs, tmp_path / "out")


def test_a_field_without_a_file_stays_empty(runs, tmp_path) -> None:
    run = runs["x/run"]
    alone = {"x/run": dataclasses.replace(run, rows=[run.rows[0].model_copy(update={"onnx": None})])}
    for place in (Linked(tmp_path), Copied(tmp_path, alone.values())):
        assert relocated(merge(alone, "merge"), alone, place, tmp_path).rows[0].onnx is None
