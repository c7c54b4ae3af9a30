"""Write the results' tables into a document from the report.json files of runs, so that no figure is typed.

Usage: `python tools/results.py docs/results.md RUN...`, each RUN an output folder. The text between the two marker
lines of the document is replaced. Each run gets its command, duration and rows. Rows with several seeds also get their
mean and standard deviation.
"""

import os
import re
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path

from tabulate import tabulate

from reports.merging.reading import read_report
from reports.merging.seeds import by_seed, spreads
from reports.model import Report, Row
from reports.rows import baseline
from reports.text import MISSING, points, width_name

START, END = "<!-- results: written by tools/results.py -->", "<!-- end of results -->"
HEADERS = ["Basis", "Config", "Bits", "Pre", "Post", "Quantized", "Size (MB)", "Training (min)"]
SEED_HEADERS = ["Basis", "Config", "Bits", "QAT epochs", "Seeds", "Pre", "Post", "Quantized"]


def section(report: Report) -> str:
    """Return one run in markdown: baseline, command, duration and rows.

    Training that was read from the store keeps the duration of when it was computed.
    """
    run, base = report.run, baseline(report)
    rows = [_cells(row) for row in report.rows]
    table = tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 2 + ["right"] * 6)
    return (
        f"### {run.model}, {row_words(report)}\n\n"
        f"Baseline {points(base.top1)}, {base.size_mb:.3f} MB. {(run.duration_s or 0) / 60:.1f} minutes "
        f"({run.device}, {run.precision}).\n\n```\n{portable(run.command)}\n```\n\n{table}\n"
    )


def portable(command: str) -> str:
    """Return the command for other machines: the data's folder by its variable, and without the output folder."""
    folder = os.environ.get("SERIESQUANT_DATA", "").rstrip("/")
    without_out = re.sub(r" --out \S+", "", command)
    return without_out.replace(f"{folder}/", "$SERIESQUANT_DATA/") if folder else without_out


def row_words(report: Report) -> str:
    """Return the fit, rounding, epochs and seed that all rows of a run share."""
    options = report.run.options or {}
    words = f"fit {options['fit']}, rounding {options['rounding']}, {options['epochs']} epochs"
    return f"{words}, {options['qat_epochs']} QAT epochs, seed {options['seed']}"


def _cells(row: Row) -> list[str]:
    top1 = [points(value) for value in (row.top1_pre, row.top1_post, row.top1_quant)]
    size = MISSING if row.size_mb is None else f"{row.size_mb:.4f}"
    minutes = ((row.finetune_s or 0) + (row.qat_s or 0)) / 60
    return [row.basis, row.config, width_name(row), *top1, size, f"{minutes:.1f}"]


def seeds_section(reports: Sequence[Report]) -> str:
    """Return mean and sample standard deviation of the rows that were run with several seeds; empty if none was."""
    rows = [(_same(report, row), report.run.seed, row) for report in reports for row in report.rows]
    found = {key: list(same.values()) for key, same in by_seed(rows).items()}
    lines = [[*map(str, key[-4:]), str(len(same)), *spreads(same)] for key, same in found.items()]
    if not lines:
        return ""
    align = ["left"] * 2 + ["right"] * 6
    table = tabulate(lines, SEED_HEADERS, tablefmt="pipe", disable_numparse=True, colalign=align)
    return f"### Several seeds: mean ± standard deviation\n\n{table}\n"


def _same(report: Report, row: Row) -> tuple[Hashable, ...]:
    """Return the fields that rows of several seeds share; the table shows the last four."""
    options = report.run.options or {}
    unshown = (report.run.model, *(str(options.get(name)) for name in ("fit", "rounding", "epochs")))
    return (*unshown, row.basis, row.config, width_name(row), row.qat_epochs)


def rewrite(document: str, sections: list[str]) -> str:
    """Return the document with the sections between its markers.

    Raises:
        ValueError: The document does not have each marker exactly once.
    """
    if document.count(START) != 1 or document.count(END) != 1:
        raise ValueError(f"the document must have the lines {START} and {END} once each")
    head, tail = document.split(START)[0], document.split(END)[1]
    return head + "\n\n".join([START, *(text.strip() for text in sections), END]) + tail


def main(arguments: list[str]) -> int:
    """Rewrite the document in the first argument from the run folders in the others. Return the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    document, *runs = map(Path, arguments)
    reports = [read_report(run) for run in runs]
    sections = [section(report) for report in reports] + [text for text in [seeds_section(reports)] if text]
    document.write_text(rewrite(document.read_text(), sections))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
