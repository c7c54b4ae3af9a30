"""The plain facts of a run: its baseline, its files, its environment and its options."""

from typing import Any

from reports import text
from reports.rows import Report, Row, unique_rows
from reports.text import model_name, row_name, settings_name

_ONNX_HEADERS = (
    "Row",
    "File",
    "Model size (MB)",
    "Stored bits",
    "Top1, PyTorch",
    "Top1, onnxruntime",
    "Other predictions",
)


def baseline_table(report: Report, style: text.Style = "markdown") -> str:
    """The uncompressed network: Top-1, parameters, size of its file."""
    base, run = report["baseline"], report["run"]
    headers = ["Model", "Weights", "Top1", "#Params", "Model size (MB)", "File"]
    figures = [text.points(base.get("top1")), text.count(base.get("params")), text.megabytes(base.get("size_mb"))]
    row = [model_name(run["model"]), _text(run.get("weights")), *figures, _text(base.get("artifact"))]
    return text.draw(headers, [row], (0, 1, 5), style)


def artifact_table(report: Report, style: text.Style = "markdown") -> str:
    """The written files: checksum, and how far the logits of the reloaded file are from those that were measured."""
    headers = ["Row", "File", "Model size (MB)", "Reloaded logits, largest difference", "SHA-256"]
    rows = [
        [
            row_name(row),
            _text(row.get("artifact")),
            text.megabytes(row.get("size_mb")),
            text.error(row.get("reloaded_logits_max_abs_diff")),
            _text(row.get("sha256")),
        ]
        for row in unique_rows(report)
    ]
    return text.draw(headers, rows, (0, 1, 4), style)


def environment_table(report: Report, style: text.Style = "markdown") -> str:
    """Where and on what the run was made: data, device, precision, time, machine, commit, versions."""
    run = report["run"]
    facts = [("Data", _dataset(run)), ("Calibration images", text.count(run.get("calibration_images")))]
    facts += [(name, _text(run.get(name.lower()))) for name in ("Seed", "Device", "Precision")]
    facts += [("Duration", _seconds(run.get("duration_s")))]
    facts += [(f"Stage {name}", _seconds(value)) for name, value in (run.get("stage_seconds") or {}).items()]
    facts += [*_machine(run), ("Code's commit", _text(run.get("git_commit")))]
    facts += [(name, _text(version)) for name, version in (run.get("versions") or {}).items()]
    return text.draw(["What", "Value"], facts, 2, style)


def runs_table(report: Report, style: text.Style = "markdown") -> str:
    """The runs of a merged report; empty for the report of one run."""
    headers = ["Run", "Settings", "Rows", "Baseline Top1", "Device", "Duration"]
    lines = [
        [
            source["name"],
            settings_name(source) or text.MISSING,
            str(sum(source["name"] in row["runs"] for row in report["rows"])),
            text.points(source["baseline"].get("top1")),
            _text(source["run"].get("device")),
            _seconds(source["run"].get("duration_s")),
        ]
        for source in report.get("sources") or []
    ]
    return text.draw(headers, lines, (0, 1, 4), style) if lines else ""


def options_table(report: Report, style: text.Style = "markdown") -> str:
    """Every option as the run resolved it; empty when the report has none."""
    options = report["run"].get("options") or {}
    rows = [(name, _text(value)) for name, value in options.items()]
    return text.draw(["Option", "Value"], rows, 2, style) if rows else ""


def onnx_table(report: Report, style: text.Style = "markdown") -> str:
    """One line a row; empty when the run tried to write no ONNX file."""
    rows = [row for row in unique_rows(report) if row.get("onnx") or row.get("onnx_reason")]
    return text.draw(_ONNX_HEADERS, [_onnx_line(row) for row in rows], 2, style) if rows else ""


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


def _dataset(run: Report) -> str:
    data = run.get("dataset") or {}
    train, test, classes = (text.count(data.get(key)) for key in ("train_images", "test_images", "classes"))
    return f"{_text(data.get('name'))}: {train} training and {test} test images, {classes} classes"


def _machine(run: Report) -> list[tuple[str, str]]:
    """The hardware that is known: `AMD EPYC, 2 cores, 2 threads, 25.3 GB`."""
    machine = run.get("hardware") or {}
    cpu = [_text(machine["cpu"])] if machine.get("cpu") else []
    cpu += [f"{machine[key]} {key}" for key in ("cores", "threads") if machine.get(key)]
    cpu += [f"{machine['memory_gb']:.1f} GB of memory"] if machine.get("memory_gb") else []
    return [
        ("Machine", ", ".join(cpu) or text.MISSING),
        ("Accelerator", _text(machine.get("accelerator"))),
        ("Processes", text.count(run.get("processes"))),
    ]


def _seconds(value: float | None) -> str:
    return text.MISSING if value is None else f"{value:.1f} s"


def _text(value: Any) -> str:
    if value is None or value == "":
        return text.MISSING
    if isinstance(value, list | tuple):
        return "; ".join(_text(item) for item in value) or text.MISSING
    return str(value)


def _onnx_line(row: Row) -> list[str]:
    return [
        row_name(row),
        row.get("onnx") or text.MISSING,
        text.megabytes(row.get("onnx_size_mb")),
        text.count(row.get("onnx_bits")),
        text.points(row.get("top1_quant")),
        text.points(row.get("onnx_top1")),
        text.count(row.get("onnx_differing_predictions")),
    ]
