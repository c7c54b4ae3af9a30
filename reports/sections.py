"""Sections of a report: their titles and blocks, which report.md and report.html both show."""

from typing import NamedTuple

from reports.bytes import bytes_table
from reports.choice import choice_table, inference_table
from reports.definitions import INFERENCE_NOTE, definitions
from reports.facts import (
    artifact_table,
    baseline_table,
    environment_table,
    onnx_notes,
    onnx_table,
    options_table,
    runs_table,
    stages_table,
)
from reports.layers import layer_tables
from reports.merging.seeds import seed_table
from reports.model import Report
from reports.poster import SOURCE, poster_quantization_table, poster_table
from reports.rows import baseline, fine_tuned
from reports.tables import pre_post_table, quantization_table
from reports.text import Style, model_name
from reports.trainings import kept_trainings, rolled_back_trainings
from reports.verdict import verdict_table
from reports.warnings import fallen_rows


class Paragraph(NamedTuple):
    """A paragraph of plain text."""

    text: str


class Bullets(NamedTuple):
    """A list of plain texts."""

    items: list[str]


class Definitions(NamedTuple):
    """A list of texts of this program in which ``**`` encloses a term."""

    items: list[str]


class Heading(NamedTuple):
    """A heading within a section, in plain text."""

    text: str


class Table(NamedTuple):
    """A table, drawn in the style of the report."""

    drawn: str


class Code(NamedTuple):
    """Commands of a shell."""

    text: str


class Plots(NamedTuple):
    """The place of the plots."""


Block = Paragraph | Bullets | Definitions | Heading | Table | Code | Plots


class Section(NamedTuple):
    """A section: its title and its blocks; it is left out if it has none."""

    title: str
    blocks: list[Block]


WARNINGS, FAILURES, ROLLED_BACK = "Warnings", "Rows that fail the gate", "Training that was rolled back"
CHOICE, LAYERS, PLOTS, BYTES = "Which file to take", "Layers", "Plots", "Where the bytes went"


def title(report: Report) -> str:
    """Return the report's title, in plain text."""
    data = report.run.dataset
    return model_name(report.run.model) + (f" on {data.name}" if data else "") + ", compressed"


def sections(report: Report, style: Style) -> list[Section]:
    """Return the sections of a report that have content, in order.

    Args:
        report: The report of a finished run, or of several merged runs.
        style: Style of the tables.
    """
    found = [
        Section(WARNINGS, _bullets(fallen_rows(report))),
        Section(FAILURES, _bullets(report.gate.failures)),
        Section(ROLLED_BACK, _bullets(rolled_back_trainings(report))),
        Section(CHOICE, _table(choice_table(report, style))),
        Section("Quantization", _table(quantization_table(report, style))),
        Section(_float_title(report), _table(pre_post_table(report, style) if _has_float_rows(report) else "")),
        Section("Kept epochs", _bullets(kept_trainings(report))),
        Section("Several seeds", _table(seed_table(report, style), _seed_note(report))),
        Section("Series against dense at equal bytes", _table(verdict_table(report, style))),
        Section("Beside the poster", _poster(report, style)),
        Section(PLOTS, [Plots()]),
        Section("Baseline", _table(baseline_table(report, style))),
        Section(LAYERS, _layers(report, style)),
        Section(BYTES, _table(bytes_table(report, style))),
        Section("Inference time", _table(inference_table(report, style), INFERENCE_NOTE)),
        Section("Files", _table(artifact_table(report, style) if report.rows else "")),
        Section("ONNX", [*_table(onnx_table(report, style)), *_bullets(onnx_notes(report))]),
        Section("Runs", _table(runs_table(report, style))),
        Section("Stages", _table(stages_table(report, style))),
        Section("Environment", _table(environment_table(report, style))),
        Section("Options", _table(options_table(report, style))),
        Section("Reproduce", [Code(_commands(report))]),
        Section("How to read this", [Definitions(definitions(report))]),
    ]
    return [section for section in found if section.blocks]


def _bullets(items: list[str]) -> list[Block]:
    return [Bullets(items)] if items else []


def _table(drawn: str, note: str = "") -> list[Block]:
    """Return a table and the note before it; nothing if the table is empty."""
    if not drawn:
        return []
    return [Paragraph(note), Table(drawn)] if note else [Table(drawn)]


def _has_float_rows(report: Report) -> bool:
    """Return True if a series row has Top-1 in float; rows of a target have none."""
    return any(row.top1_post is not None and not row.is_dense for row in report.rows)


def _float_title(report: Report) -> str:
    return "Before and after fine-tuning" if fine_tuned(report) else "After the fit"


def _seed_note(report: Report) -> str:
    note = "Mean ± standard deviation (of a sample) of the rows that were run with several seeds."
    if baseline(report).top1_by_seed:
        note += " Every seed trained its own baseline; the Δ of a row is against the baseline of its seed."
    return note


def _poster(report: Report, style: Style) -> list[Block]:
    tables = [table for table in (poster_table(report, style), poster_quantization_table(report, style)) if table]
    return [Paragraph(f"Source of the poster's figures: {SOURCE}."), *map(Table, tables)] if tables else []


def _layers(report: Report, style: Style) -> list[Block]:
    tables = layer_tables(report, style)
    measured = any("error" in table for table in tables.values())
    blocks: list[Block] = [Paragraph("Errors are relative errors of the layer's output.")] if measured else []
    for name, table in tables.items():
        blocks += [Heading(name), Table(table)]
    return blocks


def _commands(report: Report) -> str:
    """Return the command of the run; for a merged report, the commands of its runs and then of the merge."""
    runs = [source.run for source in report.sources or []]
    return "\n".join(run.command for run in [*runs, report.run])
