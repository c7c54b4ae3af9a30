import json

import pytest

from reports.merging.merge import merge
from reports.merging.reading import ReportError, read_report, runs_of, sources

COS = "cosine"


@pytest.fixture
def folder(report, row, tmp_path):
    write(tmp_path, report([row(COS, "3,3,3,2", 4, 90.2)]).model_dump())
    return tmp_path


def write(folder, content) -> None:
    (folder / "report.json").write_text(json.dumps(content))


def content(folder):
    return json.loads((folder / "report.json").read_text())


def test_a_folder_and_its_report_json_are_the_same(folder) -> None:
    assert read_report(folder) == read_report(folder / "report.json")
    assert read_report(folder).model_dump() == content(folder)
    assert sources(read_report(folder), folder)[0].folder == folder


def test_a_runs_own_report_counts_instead_of_that_in_a_merged_one(report, row, tmp_path) -> None:
    shown = (("3,3,3,2", 90.2), ("3,3,3,2", 91.2), ("3,3,2,2", 92.2))
    earlier, now, other = (report([row(COS, config, 4, top1)]) for config, top1 in shown)
    runs = {f"../{name}": sources(each, tmp_path / name)[0] for name, each in (("a", earlier), ("b", other))}
    own, merged = (tmp_path / "a", now), (tmp_path / "merged", merge(runs, "merge"))
    for read in ([own, merged], [merged, own]):
        assert [run.rows[0].top1_quant for run in runs_of(read)] == [91.2, 92.2]
    assert [run.rows[0].top1_quant for run in runs_of([merged])] == [90.2, 92.2]


def test_a_folder_without_a_report_is_named(tmp_path) -> None:
    with pytest.raises(ReportError, match=rf"{tmp_path}.*report\.json.*allowed"):
        read_report(tmp_path)


@pytest.mark.parametrize("damaged", [b'{"schema_version": 1, "rows": [', b"\xff\xfe", b"", b"[" * 10**5])
def test_a_damaged_report_is_named(folder, damaged) -> None:
    (folder / "report.json").write_bytes(damaged)
    with pytest.raises(ReportError, match=rf"{folder}/report\.json.* read.*allowed"):
        read_report(folder)


@pytest.mark.parametrize("other", [[], 3, {}])
def test_json_that_is_no_report(folder, other) -> None:
    write(folder, other)
    with pytest.raises(ReportError, match=r"report\.json is no report.*allowed"):
        read_report(folder)


def test_another_schema(folder) -> None:
    write(folder, {"schema_version": 2})
    with pytest.raises(ReportError, match=r"schema_version 2; allowed: 1"):
        read_report(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", None),
        ("baseline", None),
        ("baseline", []),
        ("rows", {}),
        ("rows", [{"basis": COS}]),
        ("rows", ["fc"]),
        ("layers", ["fc"]),
        ("extra", 1),
    ],
)
def test_a_wrong_field_is_named(folder, key, value) -> None:
    write(folder, content(folder) | {key: value})
    with pytest.raises(ReportError, match=rf"report\.json has .*{key}.*allowed"):
        read_report(folder)


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_failed(folder, status) -> None:
    write(folder, content(folder) | {"status": status, "error": {"message": "the loss became NaN"}})
    with pytest.raises(ReportError, match=rf"report\.json.* {status}.*loss became NaN"):
        read_report(folder)


def test_a_report_of_an_early_version_can_be_read(folder) -> None:
    early, now = content(folder), read_report(folder)
    for name in ("status", "error", "exit_code"):
        del early[name]
    for name in ("hardware", "git_commit", "processes", "stages"):
        del early["run"][name]
    for name in ("stored_bits", "finetune_undone", "qat_undone"):
        del early["rows"][0][name]
    early["gate"] = {"max_drop": None, "passed": None}
    write(folder, early)
    now.run.stages = []
    assert read_report(folder) == now
