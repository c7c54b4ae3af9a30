"""report.md: the whole report as markdown, from report.json alone."""

import re

from reports.facts import (
    artifact_table,
    baseline_table,
    environment_table,
    onnx_notes,
    onnx_table,
    options_table,
    runs_table,
)
from reports.gate import gate_list
from reports.layers import layer_tables
from reports.merging.seeds import seed_table
from reports.plots import plot_names
from reports.poster import SOURCE, poster_quantization_table, poster_table
from reports.rows import Report, unique_rows
from reports.summary import summarise
from reports.tables import pre_post_table, quantization_table
from reports.text import escape, model_name, row_name, stored_bits
from reports.verdict import verdict_table, wilson

PLOTS = "plots"
"""Folder of the plots, beside report.md."""

_CAPTIONS = {
    "size_top1.png": "File size against Top-1, with 95 % intervals",
    "kernels.png": "One filter as trained, and as each basis gives it back",
    "layer_errors.png": "Relative output error of fit and rounding, layer by layer",
}
_DEFINITIONS = (
    "**Top1** is the share of test images whose first answer is right, in percent. In the quantization table it is "
    "that of the fine-tuned network before quantization, and **Quant. Top1** that of the written file.",
    "**Δ** is a difference in percentage points: by quantization alone in the quantization table, against the "
    "baseline in the Pre/Post table. **Pre** is after the fit, **Post** after fine-tuning.",
    "**#Params** counts every parameter but those of normalization layers, with coefficients in place of kernels; "
    "**%** is its share of the baseline's. **#Comp. params** counts only what the method can compress.",
    "**MB** is 10^6 bytes. **Model size** is that of the file, read after it was written; the baseline's values are "
    "32-bit. **Poster's formula** is #Params x (bits + 8) / 8 / 10^6, which counts the poster's floating-point "
    "format; it is not the size of a file.",
    "**Conv2D** or dense is the network without series. A **config** holds the order kept in each stage.",
    "`-` stands for a figure that was not measured. A slash parts CosConv's figure from ChebConv's where they differ.",
)

_TRAININGS = {"finetune_undone": "fine-tuning", "qat_undone": "quantization-aware training"}


def render(report: Report) -> str:
    """Turn a report into markdown.

    Args:
        report: The content of report.json, schema 1.

    Returns:
        The text of report.md, ending in one newline. It shows the plots of `plot_names` from the folder `plots/`.
    """
    sections = [
        ("Rows that miss the gate", gate_list(report)),
        ("Training that was undone", _undone(report)),
        ("Quantization", quantization_table(report)),
        ("Before and after fine-tuning", pre_post_table(report)),
        ("Several seeds", _seeds(report)),
        ("Series against dense at equal bytes", verdict_table(report)),
        ("Beside the poster", _poster(report)),
        ("Plots", _plots(report)),
        ("Baseline", baseline_table(report)),
        ("Layers", _layers(report)),
        ("Files", artifact_table(report) if report["rows"] else ""),
        ("ONNX", _onnx(report)),
        ("Runs", runs_table(report)),
        ("Environment", environment_table(report)),
        ("Options", options_table(report)),
        ("Reproduce", _code(_commands(report))),
        ("How to read this", _definitions(report)),
    ]
    parts = [f"# {_title(report)}", escape(summarise(report))]
    parts += [f"## {title}\n\n{body}" for title, body in sections if body]
    return "\n\n".join(parts) + "\n"


def _undone(report: Report) -> str:
    """Every training that was undone, as markdown; empty where none was."""
    rows = unique_rows(report)
    lines = [
        f"- {escape(row_name(row))}: {name} lost Top-1 on training images and was undone; the figures are those "
        "without it. Another --lr, or more --epochs, may help."
        for row in rows
        for field, name in _TRAININGS.items()
        if row.get(field)
    ]
    return "\n".join(lines)


def _title(report: Report) -> str:
    data = (report["run"].get("dataset") or {}).get("name")
    return escape(model_name(report["run"]["model"]) + (f" on {data}" if data else "") + ", compressed")


def _seeds(report: Report) -> str:
    table = seed_table(report)
    own = "Every seed trained a baseline of its own: a row's Δ is against that of its seed."
    note = own if report["baseline"].get("top1_by_seed") else ""
    intro = f"Mean ± standard deviation (of a sample) of the rows that were run with several seeds. {note}".strip()
    return f"{intro}\n\n{table}" if table else ""


def _commands(report: Report) -> str:
    """The command of the run, or those of the runs that were merged and then that of the merge."""
    runs = [source["run"] for source in report.get("sources") or []]
    return "\n".join(run["command"] for run in [*runs, report["run"]])


def _poster(report: Report) -> str:
    tables = [table for table in (poster_table(report), poster_quantization_table(report)) if table]
    return "\n\n".join([f"The poster's figures are those of {SOURCE}.", *tables]) if tables else ""


def _plots(report: Report) -> str:
    return "\n\n".join(f"![{_CAPTIONS[name]}]({PLOTS}/{name})" for name in plot_names(report))


def _layers(report: Report) -> str:
    tables = layer_tables(report)
    measured = any("error" in table for table in tables.values())
    note = "Errors are relative errors of the layer's output." if measured else ""
    parts = [note, *(f"### {escape(title)}\n\n{table}" for title, table in tables.items())]
    return "\n\n".join(part for part in parts if part)


def _onnx(report: Report) -> str:
    notes = "\n".join(f"- {escape(note)}" for note in onnx_notes(report))
    return "\n\n".join(part for part in (onnx_table(report), notes) if part)


def _definitions(report: Report) -> str:
    lines = [*_DEFINITIONS, *_stored_note(report), *_interval_note(report)]
    return "\n".join(f"- {line}" for line in lines)


def _stored_note(report: Report) -> list[str]:
    if all(stored_bits(row) == row["bits"] for row in report["rows"]):
        return []
    return [
        "**Bits** with stored bits beside them are the mantissa bits of minifloats, the poster's format: one sign, "
        "seven exponent and that many mantissa bits are stored of a value, as the poster's formula counts."
    ]


def _interval_note(report: Report) -> list[str]:
    images = (report["run"].get("dataset") or {}).get("test_images")
    top1 = report["baseline"].get("top1")
    if not images or top1 is None:
        return []
    low, high = wilson(top1, images)
    return [
        f"The **95 % interval** (Wilson) is what {images:,} test images can tell: the baseline's {top1:.2f} stands for "
        f"{low:.2f} to {high:.2f}. Rows share the test images, so it is on the cautious side for differences."
    ]


def _code(command: str) -> str:
    """A code block whose fence is longer than any run of backticks in the command."""
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
