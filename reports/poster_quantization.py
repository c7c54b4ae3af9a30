"""The poster's quantization table, for comparison: ResNet-18 on ImageNet, Top-1 and size at 8 and 4 bits.

Source: as in `reports.poster`; every figure is as printed there. The poster's values are floats of one sign, seven
exponent and `bits` mantissa bits, so its sizes are those of `bits` + 8 stored bits: minifloat rows are the like.
"""

from collections.abc import Mapping
from typing import NamedTuple

from reports import cells
from reports.poster import is_imagenet
from reports.rows import Report, Row, is_dense, unique_rows
from reports.text import basis_name, config_name, stored_bits, with_settings

POSTER_EXTRA_BITS = 8
"""A sign and seven exponent bits."""


class PosterQuantization(NamedTuple):
    """Basis -> Top-1 in percent after quantization, and the size in MB that the bases share."""

    top1: Mapping[str, float]
    size_mb: float


def _figures(cosine: float, chebyshev: float, size_mb: float) -> PosterQuantization:
    return PosterQuantization({"cosine": cosine, "chebyshev": chebyshev}, size_mb)


POSTER_QUANTIZATION = {
    (8, "dense"): _figures(69.74, 69.74, 23.4),
    (8, "6,3,3,3,2"): _figures(68.12, 67.39, 14.2),
    (8, "6,3,3,2,2"): _figures(65.23, 65.20, 11.9),
    (4, "dense"): _figures(69.28, 69.28, 17.5),
    (4, "6,3,3,3,2"): _figures(66.70, 66.50, 10.6),
    (4, "6,3,3,2,2"): _figures(64.10, 63.88, 8.9),
}


def poster_quantization_table(report: Report, style: cells.Style = "markdown") -> str:
    """This run beside the poster's quantization table; empty where the poster has none of its rows.

    Where the run has minifloat rows they alone are shown, like for like; else its integers, with their stored bits.
    """
    both = _both(report)
    like = [(row, printed) for row, printed in both if row.get("scheme") == "minifloat"]
    headers = ["Bits", "Config", "Basis", "Poster, stored bits", "Here, stored bits"]
    headers += ["Poster, Quant. Top1", "Here, Quant. Top1", "Poster, size (MB)", "Here, size (MB)"]
    return cells.draw(headers, [_line(row, printed) for row, printed in like or both], (1, 2), style) if both else ""


def _line(row: Row, printed: PosterQuantization) -> list[str]:
    basis = cells.MISSING if is_dense(row) else basis_name(row["basis"])
    stored = [str(row["bits"] + POSTER_EXTRA_BITS), str(stored_bits(row))]
    tops = [cells.points(printed.top1.get(row["basis"])), cells.points(row.get("top1_quant"))]
    sizes = [cells.megabytes(printed.size_mb), cells.megabytes(row.get("size_mb"))]
    return [str(row["bits"]), with_settings(config_name(row["config"]), row), basis, *stored, *tops, *sizes]


def _both(report: Report) -> list[tuple[Row, PosterQuantization]]:
    """The rows that the poster has too, each with its figures."""
    run, data = report["run"], report["run"].get("dataset") or {}
    if run["model"] != "resnet18" or not is_imagenet(data.get("name") or "", data.get("classes") or 0):
        return []
    found = [(row, POSTER_QUANTIZATION.get((row["bits"], row["config"]))) for row in unique_rows(report)]
    return [(row, printed) for row, printed in found if printed is not None]
