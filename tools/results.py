"""Write the results' tables into a document from the report.json files of runs, so that no figure is typed.

Usage: `python tools/results.py docs/results.md RUN...`, each RUN an output folder. The text between the two marker
lines of the document is replaced. Each run gets its command, duration and rows. Rows with several seeds also get their
mean and standard deviation.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from reports.names import width_name
from reports.seeds import STAGES, by_seed, spreads

START, END = "<!-- results: written by tools/results.py -->", "<!-- end of results -->"
HEADERS = ["Basis", "Config", "Bits", "Pre", "Post", "Quantized", "Size (MB)", "Training (min)"]
SEED_HEADERS = ["Basis", "Config", "Bits", "QAT epochs", "Seeds", "Pre", "Post", "Quantized"]


def section(report: dict[str, Any]) -> str:
    """Format one run in markdown: baseline, command, duration, rows. Training read from the store keeps its cost."""
    run, base = report["run"], report["baseline"]
    rows = [_cells(row) for row in report["rows"]]
    table = tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True, colalign=["left"] * 2 + ["right"] * 6)
    return (
        f"### {run['model']}, {row_words(report)}\n\n"
        f"Baseline {base['top1']:.2f}, {base['size_mb']:.3f} MB. {run['duration_s'] / 60:.1f} minutes "
        f"({run['device']}, {run['precision']}).\n\n```\n{portable(run['command'])}\n```\n\n{table}\n"
    )


def portable(command: str) -> str:
    """Return the command in a portable form: the data's folder by its variable, and no output folder of this run."""
    folder = os.environ.get("SERIESQUANT_DATA", "").rstrip("/")
    without_out = re.sub(r" --out \S+", "", command)
    return without_out.replace(f"{folder}/", "$SERIESQUANT_DATA/") if folder else without_out


def row_words(report: dict[str, Any]) -> str:
    """Return the settings that all rows share: fit, rounding, epochs, seed."""
    options = report["run"]["options"]
    words = f"fit {options['fit']}, rounding {options['rounding']}, {options['epochs']} epochs"
    return f"{words}, {options['qat_epochs']} QAT epochs, seed {options['seed']}"


def _cells(row: dict[str, Any]) -> list[str]:
    top1 = [_points(row[f"top1_{stage}"]) for stage in STAGES]
    minutes = (row["finetune_s"] + row["qat_s"]) / 60
    return [row["basis"], row["config"], width_name(row), *top1, f"{row['size_mb']:.4f}", f"{minutes:.1f}"]


def seeds_section(reports: list[dict[str, Any]]) -> str:
    """Format mean and sample standard deviation of every row that has several seeds; empty if there is none."""
    rows = [(_same(report, row), report["run"]["options"]["seed"], row) for report in reports for row in report["rows"]]
    found = {key: list(same.values()) for key, same in by_seed(rows).items()}
    lines = [[*map(str, key[-4:]), str(len(same)), *spreads(same)] for key, same in found.items()]
    if not lines:
        return ""
    align = ["left"] * 2 + ["right"] * 6
    table = tabulate(lines, SEED_HEADERS, tablefmt="pipe", disable_numparse=True, colalign=align)
    return f"### Several seeds: mean ± standard deviation\n\n{table}\n"


def _same(report: dict[str, Any], row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the key that rows of several seeds share. Its last four fields are columns of the table."""
    options = report["run"]["options"]
    unshown = (report["run"]["model"], *(options[name] for name in ("fit", "rounding", "epochs")))
    return (*unshown, row["basis"], row["config"], width_name(row), options["qat_epochs"])


def rewrite(document: str, sections: list[str]) -> str:
    """Return the document with the sections between its markers.

    Raises:
        ValueError: If the document does not have each marker exactly once.
    """
    if document.count(START) != 1 or document.count(END) != 1:
        raise ValueError(f"the document must have the lines {START} and {END} once each")
    head, tail = document.split(START)[0], document.split(END)[1]
    return head + "\n\n".join([START, *(text.strip() for text in sections), END]) + tail


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(arguments: list[str]) -> int:
    """Rewrite the document in the first argument from the run folders in the others. Return the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    document, *runs = map(Path, arguments)
    reports = [json.loads((run / "report.json").read_text()) for run in runs]
    sections = [section(report) for report in reports] + [text for text in [seeds_section(reports)] if text]
    document.write_text(rewrite(document.read_text(), sections))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
