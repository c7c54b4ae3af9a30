import json

import pytest

from reports.merging.reading import ReportError, read_report, sources

COS = "cosine"


@pytest.fixture
def folder(report, row, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report([row(COS, "3,3,3,2", 4, 90.2)])))
    return tmp_path


def test_a_folder_and_its_report_json_are_the_same(folder) -> None:
    assert (
        read_report(folder) == read_report(folder / "report.json") == json.loads((folder / "report.json").read_text())
    )
    assert sources(read_report(folder), folder)[0].folder == folder


def test_a_folder_without_a_report_is_named(tmp_path) -> None:
    with pytest.raises(ReportError, match=rf"report: {tmp_path} has no report.json; allowed: the output folder"):
        read_report(tmp_path)


@pytest.mark.parametrize("content", [b'{"schema_version": 1, "rows": [', b"\xff\xfe", b""])
def test_a_damaged_report_is_named(folder, content) -> None:
    (folder / "report.json").write_bytes(content)
    with pytest.raises(
        ReportError, match=rf"report: {folder}/report.json cannot be read: .*; allowed: the report.json of"
    ):
        read_report(folder)


@pytest.mark.parametrize("content", ["[]", "3", "{}"])
def test_json_that_is_no_report(folder, content) -> None:
    (folder / "report.json").write_text(content)
    with pytest.raises(ReportError, match=r"report.json is no report; allowed: the report.json of a finished run"):
        read_report(folder)


def test_another_schema(folder) -> None:
    (folder / "report.json").write_text('{"schema_version": 2}')
    with pytest.raises(ReportError, match=r"report.json has schema_version 2; allowed: 1"):
        read_report(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("run", None), ("baseline", []), ("rows", {}), ("rows", [{"basis": COS}]), ("layers", ["fc"])]
)
def test_a_report_without_what_a_report_has(folder, key, value) -> None:
    (folder / "report.json").write_text(json.dumps(read_report(folder) | {key: value}))
    with pytest.raises(ReportError, match=rf"report.json has no {key} as a report has; allowed: the report.json of"):
        read_report(folder)


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_end_well(folder, status) -> None:
    changed = read_report(folder) | {"status": status, "error": {"message": "the loss became NaN"}}
    (folder / "report.json").write_text(json.dumps(changed))
    with pytest.raises(
        ReportError, match=rf"the run of .*report.json is {status} \(the loss became NaN\); allowed: runs"
    ):
        read_report(folder)
