from reports.facts import baseline_table, onnx_notes, onnx_table, stages_table
from reports.markdown import render
from tests.support.report_schema import mistakes

COS = "cosine"


def test_a_line_has_both_top1_and_the_width_that_is_stored(report, row, parse) -> None:
    headers, lines = parse(onnx_table(report([row(COS, "6,3,3,2,2", 3, 98.61)])))
    line = dict(zip(headers, lines[0], strict=True))
    assert line["File"] == "artifacts/cosine-6,3,3,2,2-3.onnx"
    assert (line["Stored bits"], line["Other predictions"]) == ("4", "2")
    assert (line["Top1, PyTorch"], line["Top1, onnxruntime"]) == ("98.61", "98.60")


def test_the_notes_name_the_widths_that_onnx_lacks(report, row) -> None:
    rows = [row(COS, "6,3,3,2,2", bits, 98.61) for bits in (8, 4, 3)]
    assert [note[:28] for note in onnx_notes(report(rows))] == ["ONNX has no 3-bit integers, "]
    assert onnx_notes(report(rows[:2])) == []
    floats = [row(COS, "6,3,3,2,2", 4, 98.61, scheme="minifloat", onnx_bits=32)]
    assert onnx_notes(report(floats)) == ["ONNX has no minifloats, so these rows are stored in 32-bit floats."]


def test_a_row_without_a_file_has_a_reason(report, row, parse) -> None:
    none = dict.fromkeys(("onnx", "onnx_size_mb", "onnx_top1", "onnx_differing_predictions", "onnx_bits"))
    data = report([row(COS, "6,3,3,2,2", 4, 98.61, **none, onnx_reason="onnx: it loops over the batch")])
    text = render(data)
    assert "CosConv 6,3,3,2,2 at 4 bits has no ONNX file: onnx: it loops over the batch" in text
    assert parse(onnx_table(data))[1][0] == ["CosConv 6,3,3,2,2 at 4 bits", "-", "-", "-", "98.61", "-", "-"]


def test_a_report_of_a_run_without_onnx_has_no_section(report, row) -> None:
    assert "## ONNX" not in render(report([row(COS, "6,3,3,2,2", 4, 98.61, onnx=None, onnx_reason=None)]))


def test_the_baseline_has_its_interval(report, row, parse) -> None:
    headers, (line,) = parse(baseline_table(report([row(COS, "a", 4, 98.61)])))
    assert line[headers.index("95 % interval")] == "97.58 to 99.72"


def test_every_stage_has_its_duration_and_memory(report, row, parse) -> None:
    data = report([row(COS, "6,3,3,2,2", 4, 98.61)])
    assert mistakes(data.model_dump()) == []
    headers, lines = parse(stages_table(data))
    assert headers == ["Stage", "Duration", "Peak memory so far", "From the store"]
    assert lines == [["baseline: Top-1", "3.5 s", "1,240 MB", "yes"], ["cosine 6,3,3,2,2: fit", "2.2 s", "-", "no"]]
    assert stages_table(data) in render(data)
