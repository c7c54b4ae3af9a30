"""The ONNX files of a run: their sizes, and what onnxruntime says of the test images beside PyTorch."""

from reports import cells
from reports.rows import Report, Row, unique_rows
from reports.text import row_name

_HEADERS = ("Row", "File", "Model size (MB)", "Stored bits", "Top1, PyTorch", "Top1, onnxruntime", "Other predictions")


def onnx_table(report: Report, style: cells.Style = "markdown") -> str:
    """One line a row; empty when the run tried to write no ONNX file."""
    rows = [row for row in unique_rows(report) if row.get("onnx") or row.get("onnx_reason")]
    return cells.draw(_HEADERS, [_line(row) for row in rows], 2, style) if rows else ""


def onnx_notes(report: Report) -> list[str]:
    """Which rows have no ONNX file and why, and which are stored wider than they are."""
    rows = unique_rows(report)
    wide = [row for row in rows if (row.get("onnx_bits") or 0) > row["bits"]]
    widths = sorted({row["bits"] for row in wide if row["scheme"] == "int"}, reverse=True)
    wider = [
        f"ONNX has no {bits}-bit integers, so these rows are stored in the next width that it has." for bits in widths
    ]
    if any(row["scheme"] != "int" for row in wide):
        wider.append("ONNX has no minifloats, so these rows are stored in 32-bit floats.")
    missing = [f"{row_name(row)} has no ONNX file: {row['onnx_reason']}" for row in rows if row.get("onnx_reason")]
    return [*wider, *missing]


def _line(row: Row) -> list[str]:
    return [
        row_name(row),
        row.get("onnx") or cells.MISSING,
        cells.megabytes(row.get("onnx_size_mb")),
        cells.count(row.get("onnx_bits")),
        cells.points(row.get("top1_quant")),
        cells.points(row.get("onnx_top1")),
        cells.count(row.get("onnx_differing_predictions")),
    ]
