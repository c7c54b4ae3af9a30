"""Render report.md from the content of report.json."""

import re

from reports.choice import choice_table, inference_table
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
from reports.gate import gate_list
from reports.layers import layer_tables
from reports.merging.seeds import seed_table
from reports.model import Report
from reports.plots import plot_names
from reports.poster import SOURCE, poster_quantization_table, poster_table
from reports.rows import baseline, fine_tuned, unique_rows
from reports.summary import SIGNIFICANT, summarise
from reports.tables import pre_post_table, quantization_table
from reports.text import escape, model_name, row_name
from reports.verdict import interval, verdict_table
from reports.warnings import fallen_rows

PLOTS = "plots"
"""Folder of the plots, in the folder of report.md."""

INFERENCE_NOTE = (
    "Median time for one image on the run's device and threads, measured in turns. ONNX files run on the CPU. A loaded "
    "artifact has ordinary dense convolutions, so it takes about as long as the original: the file is smaller, not the "
    "arithmetic."
)

_CAPTIONS = {
    "size_top1.png": "File size against Top-1, with 95 % intervals",
    "kernels.png": "One filter as trained, and its reconstruction in each basis",
    "layer_errors.png": "Relative output error of fit and rounding, layer by layer",
}
_DEFINITIONS = (
    "**Top1** is the share of test images whose top prediction is correct, in percent. In the quantization table it is "
    "the Top-1 of the network before quantization. **Quant. Top1** is the Top-1 of the written file. **Top5** counts "
    "an image whose class is among the top five predictions.",
    "**Δ** is a difference in percentage points. **Δ baseline** is the change of the written file's Top-1 against the "
    "baseline. **Δ quant.** is the change by quantization alone, against the same network in float. In the table of "
    "networks in float, **Δ** is against the baseline.",
    "**Times smaller** is the size of the baseline's file divided by the size of the file.",
    "**#Params** counts every parameter outside normalization layers, with coefficients in place of kernels. **%** is "
    "the share of the baseline's #Params. **#Comp. params** counts only what the method can compress.",
    "**MB** is 10^6 bytes. **Model size** is the size of the written file; the baseline's values are 32-bit. "
    "**Poster's formula** is #Params x (bits + 8) / 8 / 10^6. It counts the poster's floating-point format and is not "
    "the size of a file.",
    "**Conv2D** or dense is the network without series. A **config** lists the order kept in each stage.",
    "`-` stands for a figure that was not measured. A slash separates the figures of CosConv and ChebConv if they "
    "differ.",
)


def render(report: Report) -> str:
    """Render a report as markdown.

    Args:
        report: The report of a finished run, or of several merged runs.

    Returns:
        The text of report.md, ending in one newline. It shows the plots of `plot_names` from the folder `plots/`.

    Raises:
        ValueError: If the report has no baseline, because its run failed.
    """
    sections = [
        ("Warnings", "\n".join(f"- {escape(warning)}" for warning in fallen_rows(report))),
        ("Rows that fail the gate", gate_list(report)),
        ("Training that was rolled back", _rolled_back(report)),
        ("Which file to take", choice_table(report)),
        ("Quantization", quantization_table(report)),
        (float_title(report), pre_post_table(report) if _has_float_rows(report) else ""),
        ("Several seeds", _seeds(report)),
        ("Series against dense at equal bytes", verdict_table(report)),
        ("Beside the poster", _poster(report)),
        ("Plots", _plots(report)),
        ("Baseline", baseline_table(report)),
        ("Layers", _layers(report)),
        ("Inference time", _inference(report)),
        ("Files", artifact_table(report) if report.rows else ""),
        ("ONNX", _onnx(report)),
        ("Runs", runs_table(report)),
        ("Stages", stages_table(report)),
        ("Environment", environment_table(report)),
        ("Options", options_table(report)),
        ("Reproduce", _code(_commands(report))),
        ("How to read this", _definitions(report)),
    ]
    parts = [f"# {_title(report)}", escape(summarise(report))]
    parts += [f"## {title}\n\n{body}" for title, body in sections if body]
    return "\n\n".join(parts) + "\n"


def float_title(report: Report) -> str:
    """Return the title of the table of networks in float."""
    return "Before and after fine-tuning" if fine_tuned(report) else "After the fit"


def _inference(report: Report) -> str:
    table = inference_table(report)
    return f"{INFERENCE_NOTE}\n\n{table}" if table else ""


def _title(report: Report) -> str:
    data = report.run.dataset
    return escape(model_name(report.run.model) + (f" on {data.name}" if data else "") + ", compressed")


def _has_float_rows(report: Report) -> bool:
    """Return True if a row has Top-1 in float; rows of a target have none."""
    return any(row.top1_post is not None for row in report.rows)


def _rolled_back(report: Report) -> str:
    """List every training that was rolled back."""
    trainings = [
        (row, training)
        for row in unique_rows(report)
        for training, undone in (("fine-tuning", row.finetune_undone), ("quantization-aware training", row.qat_undone))
        if undone
    ]
    return "\n".join(
        f"- {escape(row_name(row))}: {training} lowered Top-1 on training images, so it was rolled back. "
        "The figures are of the network before it. Another --lr or more --epochs may help."
        for row, training in trainings
    )


def _seeds(report: Report) -> str:
    table = seed_table(report)
    if not table:
        return ""
    note = "Mean ± standard deviation (of a sample) of the rows that were run with several seeds."
    if baseline(report).top1_by_seed:
        note += " Every seed trained its own baseline; the Δ of a row is against the baseline of its seed."
    return f"{note}\n\n{table}"


def _poster(report: Report) -> str:
    tables = [table for table in (poster_table(report), poster_quantization_table(report)) if table]
    return "\n\n".join([f"Source of the poster's figures: {SOURCE}.", *tables]) if tables else ""


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


def _commands(report: Report) -> str:
    """Return the command of the run; for a merged report, the commands of its runs and then of the merge."""
    runs = [source.run for source in report.sources or []]
    return "\n".join(run.command for run in [*runs, report.run])


def _code(command: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in the command."""
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"


def _definitions(report: Report) -> str:
    lines = [
        *_DEFINITIONS,
        *_tuning_note(report),
        *_paired_note(report),
        *_target_note(report),
        *_stored_note(report),
        *_interval_note(report),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _tuning_note(report: Report) -> list[str]:
    return ["**Pre** is after the fit, **Post** after fine-tuning."] if fine_tuned(report) else []


def _paired_note(report: Report) -> list[str]:
    if all(row.agreement is None for row in report.rows):
        return []
    return [
        "**Same predictions** is the share of test images with the original's prediction. **Images lost** are "
        "those that only the original classifies correctly, **images gained** those that only the file does. "
        "**McNemar p** is the probability of a split between both at least as uneven if the file were as good as the "
        "original. Above "
        f"{SIGNIFICANT:g}, the test images do not show which one is better."
    ]


def _target_note(report: Report) -> list[str]:
    if not any(row.has_target for row in report.rows):
        return []
    return [
        "A row of a **target** has no fixed number of bits: its integers take as many bits as their entropy. Its size "
        "or its loss of Top-1 was chosen. It has no float network, so Top1 and Δ are not measured. **Order** is then "
        "the smallest order that contains the terms with a coefficient other than zero. **auto** sets no largest order."
    ]


def _stored_note(report: Report) -> list[str]:
    if all(row.stored_bits == row.bits for row in report.rows):
        return []
    return [
        "**Bits** followed by stored bits are the mantissa bits of minifloats, the poster's format. A value has "
        "one sign bit, seven exponent bits and that many mantissa bits, as the poster's formula counts. The file is "
        "smaller, because its values are entropy-coded."
    ]


def _interval_note(report: Report) -> list[str]:
    data, top1 = report.run.dataset, baseline(report).top1
    ends = interval(report, top1)
    if data is None or top1 is None or ends is None:
        return []
    low, high = ends
    return [
        "The **95 % interval** (Wilson) follows from the number of test images. With "
        f"{data.test_images:,} test images, the baseline's {top1:.2f} has the interval {low:.2f} to {high:.2f}. All "
        "rows are measured on the same images, so the interval is cautious for differences between rows. McNemar's "
        "test is the sharper comparison."
    ]
