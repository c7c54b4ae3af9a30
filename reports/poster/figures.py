"""Published figures of the poster, and the row of one network, data set, basis and config.

Source: Costain and Prisacariu, "Approximating Continuous Convolutions for Deep Network Compression", BMVC 2022,
arXiv 2210.08951. Every figure is as printed there. The poster's ResNet-32 baseline is 92.78; the authors' public
checkpoint of it measures 92.63. The ConvNeXt-T table names no basis, so its figures are shown for both bases.
The poster quantizes ResNet-18 on ImageNet to floats of one sign bit, seven exponent bits and ``bits`` mantissa bits.
Its sizes therefore count ``bits`` + 8 stored bits; they are comparable with minifloat rows.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

SOURCE = "Costain and Prisacariu, BMVC 2022, arXiv 2210.08951"


class PosterFigures(NamedTuple):
    """Published Top-1 in percent, after the fit and after fine-tuning."""

    pre_top1: float
    post_top1: float


_BothBases = tuple[tuple[float, float], tuple[float, float]]
"""(Pre, Post) of CosConv, then (Pre, Post) of ChebConv, in percent."""

POSTER_CIFAR10: dict[str, dict[str, _BothBases]] = {
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
POSTER_IMAGENET: dict[str, dict[str, _BothBases]] = {
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

POSTER_BASELINES = {"resnet20": 91.73, "resnet32": 92.78, "resnet18": 69.76, "convnext_tiny": 82.10}
"""Top-1 of the uncompressed networks, in percent."""
BASELINE_TOLERANCE = 2.0
"""Points of Top-1 by which a run's baseline may differ from the poster's for their rows to be compared."""

POSTER_EXTRA_BITS = 8
"""Sign and exponent bits of the poster's floats: 1 + 7."""


class PosterQuantization(NamedTuple):
    """Published Top-1 in percent after quantization (basis -> Top-1), and the size in MB, which the bases share."""

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
    """Return the poster's figures of one row; None if the poster has none for this model, data, basis and config.

    Args:
        model: Name of the model, as for ``--model``: ``resnet20``.
        dataset_name: Name of the data: CIFAR-10 in any spelling (``cifar10``, ``cifar-10-batches-py``), or a name that
            contains ``imagenet`` or ``ilsvrc``.
        classes: Number of classes: 10 for CIFAR-10, 1,000 for ImageNet.
        basis: ``cosine`` or ``chebyshev``.
        config: Orders; spaces, ``×`` and any grouping of blocks are allowed: ``7×3, 7×3, 7×9, 6×3``.
    """
    column, orders = _COLUMNS.get(basis), orders_of(config)
    if column is None or orders is None:
        return None
    for printed, figures in _printed(model, dataset_name, classes).items():
        if orders_of(printed) == orders:
            return PosterFigures(*figures[column])
    return None


def is_posters_data(model: str, dataset_name: str, classes: int) -> bool:
    """Return True if the poster has a table of this network on these data."""
    return bool(_printed(model, dataset_name, classes))


def is_imagenet(dataset_name: str, classes: int) -> bool:
    """Return True for 1,000 classes and a name that contains ``imagenet`` or ``ilsvrc``."""
    name = re.sub(r"[^a-z0-9]", "", dataset_name.lower())
    return ("imagenet" in name or "ilsvrc" in name) and classes == 1000


def _printed(model: str, dataset_name: str, classes: int) -> dict[str, _BothBases]:
    name = re.sub(r"[^a-z0-9]", "", dataset_name.lower())
    if re.match(r"cifar10(?!0)", name) and classes == 10:
        return POSTER_CIFAR10.get(model, {})
    return POSTER_IMAGENET.get(model, {}) if is_imagenet(dataset_name, classes) else {}


def orders_of(config: str) -> tuple[int, ...] | None:
    """Return one order per stage or, if blocks are counted (``7x3``), one per block; None for any other text."""
    tokens = re.sub(r"\s", "", config.replace("×", "x")).split(",")
    matches = [re.fullmatch(r"(\d{1,3})(?:x(\d{1,3}))?", token) for token in tokens]
    found = [(int(match[1]), int(match[2] or 1)) for match in matches if match]
    if len(found) < len(tokens):
        return None
    return tuple(order for order, blocks in found for _ in range(blocks))
