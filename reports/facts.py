"""Tables of a run's baseline, files, ONNX files, environment and options."""

from reports import text
from reports.model import Report, Row
from reports.rows import baseline, unique_rows
from reports.run import Run
from reports.text import MISSING, model_name, row_name, settings_name
from reports.verdict import baseline_interval

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
    """Draw the uncompressed network's Top-1 with its interval, number of parameters and file size."""
    base, run = baseline(report), report.run
    headers = ["Model", "Weights", "Top1", "95 % interval", "#Params", "Model size (MB)", "File"]
    top1 = [text.points(base.top1), text.span(baseline_interval(report))]
    figures = [*top1, text.count(base.params), text.megabytes(base.size_mb)]
    row = [model_name(run.model), text.plain(run.weights), *figures, text.plain(base.artifact)]
    return text.draw(headers, [row], (0, 1, 6), style)


def artifact_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the written files, their checksums, and the largest difference of a logit after reloading."""
    headers = ["Row", "File", "Model size (MB)", "Reloaded logits, largest difference", "SHA-256"]
    rows = [
        [
            row_name(row),
            text.plain(row.artifact),
            text.megabytes(row.size_mb),
            text.error(row.reloaded_logits_max_abs_diff),
            text.plain(row.sha256),
        ]
        for row in unique_rows(report)
    ]
    return text.draw(headers, rows, (0, 1, 4), style)


def environment_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the data, device, precision, duration, machine, commit and library versions of a run."""
    run = report.run
    facts = [
        ("Data", _dataset(run)),
        *_images(run),
        ("Calibration images", text.count(run.calibration_images)),
        ("Seed", text.plain(run.seed)),
        ("Device", text.plain(run.device)),
        ("Precision", text.plain(run.precision)),
        ("Duration", text.seconds(run.duration_s)),
        *_machine(run),
        ("Code's commit", text.plain(run.git_commit)),
        *run.versions.items(),
    ]
    return text.draw(["What", "Value"], facts, 2, style)


def stages_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw each stage's duration, the peak memory by its end, and its origin; empty for a merged report."""
    lines = [
        [stage.name, text.seconds(stage.seconds), _memory(stage.peak_memory_mb), "yes" if stage.cached else "no"]
        for stage in report.run.stages
    ]
    headers = ["Stage", "Duration", "Peak memory so far", "From the store"]
    return text.draw(headers, lines, (0, 3), style) if lines else ""


def runs_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw the runs of a merged report; empty for the report of one run."""
    headers = ["Run", "Settings", "Rows", "Baseline Top1", "Device", "Duration"]
    lines = [
        [
            source.name,
            settings_name(source.settings) or MISSING,
            str(sum(source.name in (row.runs or []) for row in report.rows)),
            text.points(source.baseline.top1),
            text.plain(source.run.device),
            text.seconds(source.run.duration_s),
        ]
        for source in report.sources or []
    ]
    return text.draw(headers, lines, (0, 1, 4), style) if lines else ""


def options_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw every option as the run resolved it; empty if the report has no options."""
    rows = [(name, text.plain(value)) for name, value in (report.run.options or {}).items()]
    return text.draw(["Option", "Value"], rows, 2, style) if rows else ""


def onnx_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw size, Top-1 and differing predictions of the ONNX files; empty if the run attempted to write none."""
    rows = [row for row in unique_rows(report) if row.onnx or row.onnx_reason]
    return text.draw(_ONNX_HEADERS, [_onnx_line(row) for row in rows], 2, style) if rows else ""


def onnx_notes(report: Report) -> list[str]:
    """Return sentences about the rows that have no ONNX file, and about formats that ONNX stores in more bits."""
    rows = unique_rows(report)
    wide = [row for row in rows if row.bits is not None and (row.onnx_bits or 0) > row.bits]
    widths = sorted({row.bits or 0 for row in wide if row.scheme == "int"}, reverse=True)
    wider = [f"ONNX has no {bits}-bit integers, so these rows are stored in the next larger width." for bits in widths]
    if any(row.scheme != "int" for row in wide):
        wider.append("ONNX has no minifloats, so these rows are stored in 32-bit floats.")
    missing = [f"{row_name(row)} has no ONNX file: {row.onnx_reason}" for row in rows if row.onnx_reason]
    return [*wider, *missing]


def _dataset(run: Run) -> str:
    data = run.dataset
    if data is None:
        return MISSING
    train, test, classes = (text.count(number) for number in (data.train_images, data.test_images, data.classes))
    return f"{data.name}: {train} training and {test} test images, {classes} classes"


def _images(run: Run) -> list[tuple[str, str]]:
    """Return size and normalization of the images, and the choices made when they were read, where they are known."""
    data = run.dataset
    if data is None:
        return []
    size = [("Image size", "x".join(map(str, data.image_size)))] if data.image_size else []
    statistics = [("Mean of the inputs", data.mean), ("Standard deviation of the inputs", data.std)]
    shown = [(name, ", ".join(f"{value:.4g}" for value in values)) for name, values in statistics if values]
    return [*size, *shown, *(("Note on the data", note) for note in data.notes or [])]


def _memory(megabytes: float | None) -> str:
    return MISSING if megabytes is None else f"{megabytes:,.0f} MB"


def _machine(run: Run) -> list[tuple[str, str]]:
    """Return the known hardware: ``AMD EPYC, 2 cores, 2 threads, 25.3 GB of memory``."""
    machine = run.hardware
    cpu = [machine.cpu] if machine.cpu else []
    counts = (("core", machine.cores), ("thread", machine.threads))
    cpu += [text.quantity(number, unit) for unit, number in counts if number]
    cpu += [f"{machine.memory_gb:.1f} GB of memory"] if machine.memory_gb else []
    return [
        ("Machine", ", ".join(cpu) or MISSING),
        ("Accelerator", text.plain(machine.accelerator)),
        ("Processes", text.count(run.processes)),
    ]


def _onnx_line(row: Row) -> list[str]:
    return [
        row_name(row),
        row.onnx or MISSING,
        text.megabytes(row.onnx_size_mb),
        text.count(row.onnx_bits),
        text.points(row.top1_quant),
        text.points(row.onnx_top1),
        text.count(row.onnx_differing_predictions),
    ]
