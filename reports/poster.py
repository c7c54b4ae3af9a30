"""The poster's Top-1 before and after fine-tuning, for comparison.

Source: Costain and Prisacariu, "Approximating Continuous Convolutions for Deep Network Compression", BMVC 2022,
arXiv 2210.08951. Every figure is as printed there. The poster's ResNet-32 baseline is 92.78; the authors' public
checkpoint of it measures 92.63. The ConvNeXt-T table names no basis, so its figures stand beside either.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from reports import text
from reports.rows import Report, Row, is_dense, unique_rows
from reports.text import basis_name, config_name, stored_bits, with_settings

SOURCE = "Costain and Prisacariu, BMVC 2022, arXiv 2210.08951"


class PosterFigures(NamedTuple):
    """Top-1 in percent as the poster prints it: after the fit, and after fine-tuning."""

    pre_top1: float
    post_top1: float


_Both = tuple[tuple[float, float], tuple[float, float]]
"""(Pre, Post) of CosConv, then of ChebConv."""

POSTER_CIFAR10: dict[str, dict[str, _Both]] = {
    "resnet20": {
        "3,3,3,2": ((87.22, 90.75), (87.22, 90.76)),
        "3,3,2,2": ((51.43, 89.55), (51.43, 89.83)),
        "3,2,2,2": ((21.16, 86.99), (21.16, 87.79)),
        "2,2,2,2": ((17.55, 85.98), (17.55, 86.66)),
    },
    "resnet32": {
        "3,3,3,2": ((87.74, 91.51), (87.74, 91.48)),
        "3,3,2,2": ((75.62, 90.99), (75.62, 91.16)),
        "3,2,2,2": ((16.52, 88.40), (16.52, 88.48)),
        "2,2,2,2": ((15.39, 87.87), (15.39, 88.16)),
    },
}
POSTER_IMAGENET: dict[str, dict[str, _Both]] = {
    "resnet18": {
        "6,3,3,3,3": ((69.46, 70.19), (69.32, 70.11)),
        "6,3,3,3,2": ((64.33, 68.97), (64.11, 68.62)),
        "6,3,3,2,2": ((56.59, 67.90), (56.35, 67.23)),
        "5,3,3,3,3": ((66.71, 69.80), (65.79, 69.74)),
        "5,3,3,3,2": ((60.81, 68.53), (59.71, 68.15)),
        "5,3,3,2,2": ((51.92, 67.48), (13.58, 65.44)),
        "4,3,3,3,2": ((56.21, 68.05), (54.37, 67.34)),
    },
    "convnext_tiny": {
        "7x3,7x3,7x9,6x3": ((80.27, 81.19), (80.27, 81.19)),
        "7x3,7x3,7x4,6x5,6x3": ((79.10, 80.87), (79.10, 80.87)),
        "7x3,7x3,6x9,6x3": ((70.10, 79.94), (70.10, 79.94)),
        "7x3,7x3,5x9,5x3": ((62.40, 79.28), (62.40, 79.28)),
        "6x3,6x3,6x9,6x3": ((24.75, 76.26), (24.75, 76.26)),
        "5x3,5x3,5x9,5x3": ((14.94, 77.29), (14.94, 77.29)),
    },
}

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
_COLUMNS = {"cosine": 0, "chebyshev": 1}


def poster_row(model: str, dataset_name: str, classes: int, basis: str, config: str) -> PosterFigures | None:
    """The poster's figures of one row, None where it prints none for this model, data, basis and config.

    Args:
        model: As `--model` names it: `resnet20`.
        dataset_name: CIFAR-10 in any spelling (`cifar10`, `cifar-10-batches-py`), or a name with `imagenet` or
            `ilsvrc` in it.
        classes: Number of classes: 10 for CIFAR-10, 1,000 for ImageNet.
        basis: `cosine` or `chebyshev`.
        config: Orders, with spaces, `×` and any grouping of blocks allowed: `7×3, 7×3, 7×9, 6×3`.
    """
    column, orders = _COLUMNS.get(basis), _orders(config)
    if column is None or orders is None:
        return None
    for printed, figures in _printed(model, dataset_name, classes).items():
        if _orders(printed) == orders:
            return PosterFigures(*figures[column])
    return None


def poster_table(report: Report, style: text.Style = "markdown") -> str:
    """This run beside the poster, one line a config and basis that both have; empty where there is none."""
    run = report["run"]
    lines: dict[tuple[str, ...], None] = {}
    data = run.get("dataset") or {}
    for row in unique_rows(report):
        name, classes = data.get("name") or "", data.get("classes") or 0
        printed = None if is_dense(row) else poster_row(run["model"], name, classes, row["basis"], row["config"])
        if printed is None:
            continue
        pre = [text.points(printed.pre_top1), text.points(row.get("top1_pre"))]
        post = [text.points(printed.post_top1), text.points(row.get("top1_post"))]
        lines[(with_settings(row["config"], row), basis_name(row["basis"]), *pre, *post)] = None
    headers = ["Config", "Basis", "Poster, Pre Top1", "Here, Pre Top1", "Poster, Post Top1", "Here, Post Top1"]
    return text.draw(headers, list(lines), 2, style) if lines else ""


def poster_quantization_table(report: Report, style: text.Style = "markdown") -> str:
    """This run beside the poster's quantization table; empty where the poster has none of its rows.

    Where the run has minifloat rows they alone are shown, like for like; else its integers, with their stored bits.
    """
    both = _both(report)
    like = [(row, printed) for row, printed in both if row.get("scheme") == "minifloat"]
    headers = ["Bits", "Config", "Basis", "Poster, stored bits", "Here, stored bits"]
    headers += ["Poster, Quant. Top1", "Here, Quant. Top1", "Poster, size (MB)", "Here, size (MB)"]
    return text.draw(headers, [_line(row, printed) for row, printed in like or both], (1, 2), style) if both else ""


def is_imagenet(dataset_name: str, classes: int) -> bool:
    """Whether the data are the 1,000 classes of ImageNet, by any name with `imagenet` or `ilsvrc` in it."""
    name = re.sub(r"[^a-z0-9]", "", dataset_name.lower())
    return ("imagenet" in name or "ilsvrc" in name) and classes == 1000


def _printed(model: str, dataset_name: str, classes: int) -> dict[str, _Both]:
    name = re.sub(r"[^a-z0-9]", "", dataset_name.lower())
    if re.match(r"cifar10(?!0)", name) and classes == 10:
        return POSTER_CIFAR10.get(model, {})
    return POSTER_IMAGENET.get(model, {}) if is_imagenet(dataset_name, classes) else {}


def _orders(config: str) -> tuple[int, ...] | None:
    """One order a stage or, where blocks are counted (`7x3`), one a block; None for anything else."""
    tokens = re.sub(r"\s", "", config.replace("×", "x")).split(",")
    matches = [re.fullmatch(r"(\d{1,3})(?:x(\d{1,3}))?", token) for token in tokens]
    found = [(int(match[1]), int(match[2] or 1)) for match in matches if match]
    if len(found) < len(tokens):
        return None
    return tuple(order for order, blocks in found for _ in range(blocks))


def _line(row: Row, printed: PosterQuantization) -> list[str]:
    basis = text.MISSING if is_dense(row) else basis_name(row["basis"])
    stored = [str(row["bits"] + POSTER_EXTRA_BITS), str(stored_bits(row))]
    tops = [text.points(printed.top1.get(row["basis"])), text.points(row.get("top1_quant"))]
    sizes = [text.megabytes(printed.size_mb), text.megabytes(row.get("size_mb"))]
    return [str(row["bits"]), with_settings(config_name(row["config"]), row), basis, *stored, *tops, *sizes]


def _both(report: Report) -> list[tuple[Row, PosterQuantization]]:
    """The rows that the poster has too, each with its figures."""
    run, data = report["run"], report["run"].get("dataset") or {}
    if run["model"] != "resnet18" or not is_imagenet(data.get("name") or "", data.get("classes") or 0):
        return []
    found = [(row, POSTER_QUANTIZATION.get((row["bits"], row["config"]))) for row in unique_rows(report)]
    return [(row, printed) for row, printed in found if printed is not None]
