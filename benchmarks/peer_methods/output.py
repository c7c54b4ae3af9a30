"""The files of a comparison: `peers.json`, `peers.md` and `peers.png`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from tabulate import tabulate

from reports.plots import style

from . import brevitas, nncf, nncodec, ours, quanto
from .curves import Level, Point, envelope, levels
from .job import Row

TARGET_RATIO = 0.5
LOOKS = {  # colour and marker
    ours.METHOD: (style.BASIS_COLORS["cosine"], "o"),
    ours.DENSE: (style.DENSE_COLOR, "^"),
    nncodec.METHOD: (style.BASIS_COLORS["chebyshev"], "s"),
    quanto.METHOD: (style.BITS_COLORS["4"], "D"),
    nncf.METHOD: (style.BITS_COLORS["2"], "v"),
    brevitas.METHOD: (style.OTHER_BITS_COLOR, "P"),
    brevitas.PACKED: (style.BITS_COLORS["8"], "X"),
}
LOWEST_TOP1 = 80.0  # of the plot: rows with 2 bits are far below it


def write(folder: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write all three files.

    Args:
        folder: An existing folder.
        facts: Facts of the comparison: `model`, `baseline_top1`, `commit`, `date`, `threads`, `versions`.
        rows: All rows.
    """
    found = comparison(rows)
    content = facts | {
        "rows": [row._asdict() for row in rows],
        "levels": [level._asdict() | {"ratio": level.ratio} for level in found],
    }
    (folder / "peers.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "peers.md").write_text(markdown(facts, rows, found))
    _plot(folder / "peers.png", facts, rows)


def points(rows: Sequence[Row], *methods: str) -> list[Point]:
    """Return the measured rows of some methods as points."""
    return [Point(row.bytes, row.top1) for row in rows if row.method in methods and row.bytes and row.top1 is not None]


def comparison(rows: Sequence[Row]) -> list[Level]:
    """Compare NNCodec with this project at each Top-1."""
    return levels(points(rows, nncodec.METHOD), points(rows, ours.METHOD, ours.DENSE))


def markdown(facts: dict[str, Any], rows: Sequence[Row], found: Sequence[Level]) -> str:
    """Return the table of rows and the table of ratios. Of NNCodec, only rows on the envelope are listed."""
    best = set(envelope(points(rows, nncodec.METHOD)))
    listed = [
        row
        for row in rows
        if row.method != nncodec.METHOD or row.error is not None or Point(row.bytes or 0, row.top1 or 0) in best
    ]
    order = sorted(listed, key=lambda row: (list(LOOKS).index(row.method), row.bytes or 0))
    first = tabulate(
        [_cells(row) for row in order],
        ["method", "options", "bytes", "Top-1", "CPU s", "s"],
        tablefmt="pipe",
        colalign=("left", "left", "right", "right", "right", "right"),
        disable_numparse=True,
    )
    second = tabulate(
        [_level_cells(level) for level in found],
        ["Top-1", f"{nncodec.METHOD}, bytes", f"{ours.METHOD}, bytes", "ratio", f"at most {TARGET_RATIO}"],
        tablefmt="pipe",
        colalign=("right",) * 5,
        disable_numparse=True,
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    head = f"{facts['model']}, baseline {facts['baseline_top1']:.2f}; {facts['commit']}, {facts['date']}; {versions}"
    return f"{head}\n\n{first}\n\n{second}\n"


def _cells(row: Row) -> list[str]:
    if row.error is not None:
        return [row.method, row.options, row.error.replace("|", "/"), "-", "-", "-"]
    return [row.method, row.options, f"{row.bytes:,}", f"{row.top1:.2f}", f"{row.cpu_s:.1f}", f"{row.wall_s:.1f}"]


def _level_cells(level: Level) -> list[str]:
    sizes = ["-" if size is None else f"{size:,.0f}" for size in (level.peer, level.ours)]
    if level.ratio is None:
        return [f"{level.top1:g}", *sizes, "-", "-"]
    missed = level.ratio - TARGET_RATIO
    return [f"{level.top1:g}", *sizes, f"{level.ratio:.2f}", "yes" if missed <= 0 else f"missed by {missed:.2f}"]


def _plot(path: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    figure = style.new_figure(7.5, 4.6)
    axis = figure.subplots()
    axis.axhline(
        facts["baseline_top1"], color=style.BASELINE_COLOR, linewidth=1.4, label="uncompressed, float32", zorder=1
    )
    for method, (color, marker) in LOOKS.items():
        every = points(rows, method)
        drawn = [
            point
            for point in (envelope(every) if method == nncodec.METHOD else sorted(every))
            if point.top1 > LOWEST_TOP1
        ]
        if drawn:
            across, up = zip(*drawn, strict=True)
            axis.plot(across, up, color=color, marker=marker, markersize=5, linewidth=1.3, label=method)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1000:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(LOWEST_TOP1, facts["baseline_top1"] + 1)
    axis.set_xlabel("Size of the file (kB, 1,000 bytes)", color=style.INK)
    axis.set_ylabel("Top-1 (%)", color=style.INK)
    title = facts["model"].replace("resnet", "ResNet-")
    axis.set_title(f"{title} on CIFAR-10, without training", fontsize=11)
    axis.grid(color=style.GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
