"""Rows of the poster's three tables with every printed figure, and notes on figures that arithmetic contradicts."""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from reports.model import DENSE
from reports.poster.figures import POSTER_BASELINES, POSTER_CIFAR10, POSTER_IMAGENET, POSTER_QUANTIZATION
from reports.text import basis_name, config_name

Figure = Literal["pre", "post", "delta", "float", "quantized", "quantized_delta", "params", "percent", "size"]
"""Name of a printed figure; ``TITLES`` has their titles and units."""

TITLES: Final[dict[Figure, str]] = {
    "pre": "Pre Top1",
    "post": "Post Top1",
    "delta": "Δ",
    "float": "Top1",
    "quantized": "Quant. Top1",
    "quantized_delta": "Δ quant.",
    "params": "#Params (10^6)",
    "percent": "Params (%)",
    "size": "Size (MB)",
}
"""Figure -> its title. Top-1 is in percent, differences are in points."""

FAMILY: Final = "all"
"""Config of the methods that have no orders."""

CONVNEXT_COMPRESSIBLE: Final = 329_184
"""Weights of ConvNeXt-T's stem and depthwise convolutions, which alone the poster counts as parameters."""

NOTES: Final = {
    "a": "The printed parameters of ResNet-18 at 5,3,3,3,3 (10.99, 94.10 %) should read 11.68 and 99.96 %.",
    "b": "The printed share of ResNet-32 at 3,3,3,2 (57.74 %) computes to 57.88 %.",
    "c": "The printed share of ResNet-32 at 2,2,2,2 (44.48 %) computes to 44.52 %.",
    "d": "The public checkpoint of ResNet-32 measures 92.63; 92.78 is printed.",
    "e": "The printed share of the uncompressed network is 0; by the formula of the other rows it is 100.",
    "f": "The printed Δ of Fractional is against its own Pre Top1, not against Conv2D.",
    "g": "The Top1 of ChebConv before quantization differs from the table of ResNet-18 (68.62 and 67.23).",
}
"""Letter -> note on a printed figure."""


class Printed(NamedTuple):
    """One row of a table, for one network.

    Attributes:
        method: Name of the method, as printed.
        config: Orders, ``dense`` for the uncompressed network, or ``all`` for a method without orders.
        bases: Values of ``--basis`` that give the row; empty if the uncompressed network alone does.
        figures: The printed figures.
        bits: Bits of a row of the quantization table; None in the tables of Top-1.
        notes: Letters of ``NOTES``.
    """

    method: str
    config: str
    bases: tuple[str, ...]
    figures: dict[Figure, float]
    bits: int | None = None
    notes: str = ""


_BASES: Final = ("cosine", "chebyshev")
_PARAMS: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "resnet20": {},
    "resnet32": {
        DENSE: (0.46, 0.0),
        "3,3,3,2": (0.27, 57.74),
        "3,3,2,2": (0.22, 47.35),
        "3,2,2,2": (0.21, 44.57),
        "2,2,2,2": (0.21, 44.48),
    },
    "resnet18": {
        DENSE: (11.68, 0.0),
        "6,3,3,3,3": (11.68, 99.98),
        "6,3,3,3,2": (7.09, 60.70),
        "6,3,3,2,2": (5.94, 50.88),
        "5,3,3,3,3": (10.99, 94.10),
        "5,3,3,3,2": (7.09, 60.68),
        "5,3,3,2,2": (5.94, 50.86),
        "4,3,3,3,2": (7.09, 60.67),
    },
    "convnext_tiny": {
        DENSE: (0.33, 0.0),
        "7x3,7x3,7x9,6x3": (0.30, 90.90),
        "7x3,7x3,7x4,6x5,6x3": (0.27, 83.32),
        "7x3,7x3,6x9,6x3": (0.25, 77.25),
        "7x3,7x3,5x9,5x3": (0.19, 58.01),
        "6x3,6x3,6x9,6x3": (0.24, 73.84),
        "5x3,5x3,5x9,5x3": (0.17, 51.71),
    },
}
"""Network -> config -> parameters in 10^6 and their percentage."""
_NOTES: Final = {
    ("resnet18", "5,3,3,3,3"): "a",
    ("resnet32", "3,3,3,2"): "b",
    ("resnet32", "2,2,2,2"): "c",
    ("resnet32", DENSE): "de",
    ("resnet18", DENSE): "e",
    ("convnext_tiny", DENSE): "e",
}
_FAMILIES: Final[dict[str, list[Printed]]] = {
    "resnet20": [
        Printed("Fractional", FAMILY, ("fractional",), {"pre": 91.25, "post": 91.29, "delta": 0.04}, notes="f"),
        Printed("FracSRF, own regression", FAMILY, ("fracsrf",), {"pre": 10.00, "post": 38.08, "delta": -53.65}),
    ],
    "resnet32": [
        Printed(
            "FracSRF",
            FAMILY,
            ("fracsrf",),
            {"pre": 92.28, "post": 91.60, "delta": -1.18, "params": 0.16, "percent": 34.00},
        ),
        Printed(
            "FracSRF, own regression",
            FAMILY,
            ("fracsrf",),
            {"pre": 9.82, "post": 37.91, "delta": -54.87, "params": 0.15, "percent": 33.43},
        ),
    ],
}
_QUANTIZED_PARAMS: Final = {DENSE: 11.68, "6,3,3,3,2": 7.09, "6,3,3,2,2": 5.94}
_QUANTIZED_FLOAT: Final = {DENSE: (69.76, 69.76), "6,3,3,3,2": (68.97, 67.23), "6,3,3,2,2": (67.90, 65.63)}
"""Config -> Top-1 of CosConv and ChebConv before quantization, as the quantization table prints them."""


def top1_rows(model: str) -> list[Printed]:
    """Return the rows of a network in the poster's tables of Top-1, in the printed order.

    Args:
        model: A key of ``POSTER_BASELINES``.
    """
    return [_dense(model), *_FAMILIES.get(model, []), *_series(model)]


def quantized_rows() -> list[Printed]:
    """Return the rows of the quantization table of ResNet-18: CosConv and ChebConv of each config and width."""
    found = []
    for (bits, config), (top1, size_mb) in POSTER_QUANTIZATION.items():
        # The two columns of Conv2D are equal, and its measured row has no basis.
        columns = [(config_name(DENSE), (), 0)] if config == DENSE else _columns()
        for method, bases, column in columns:
            before, after = _QUANTIZED_FLOAT[config][column], top1[_BASES[column]]
            figures: dict[Figure, float] = {"float": before, "quantized": after}
            figures |= {"quantized_delta": round(after - before, 2), "params": _QUANTIZED_PARAMS[config]}
            notes = "g" if bases == ("chebyshev",) else ""
            found.append(Printed(method, config, bases, figures | {"size": size_mb}, bits, notes))
    return found


def _dense(model: str) -> Printed:
    figures: dict[Figure, float] = {"post": POSTER_BASELINES[model]}
    if model not in POSTER_CIFAR10:
        figures["delta"] = 0.0
    return Printed(config_name(DENSE), DENSE, (), figures | _params(model, DENSE), notes=_NOTES.get((model, DENSE), ""))


def _series(model: str) -> Iterator[Printed]:
    """Yield the rows of every basis; ConvNeXt-T's table names no basis, so each of its rows stands for both."""
    table = (POSTER_CIFAR10 | POSTER_IMAGENET)[model]
    columns = [("-", _BASES, 0)] if model == "convnext_tiny" else _columns()
    for method, bases, column in columns:
        for config, both in table.items():
            pre, post = both[column]
            top1: dict[Figure, float] = {"pre": pre, "post": post, "delta": round(post - POSTER_BASELINES[model], 2)}
            yield Printed(method, config, bases, top1 | _params(model, config), notes=_NOTES.get((model, config), ""))


def _columns() -> list[tuple[str, tuple[str, ...], int]]:
    return [(basis_name(basis), (basis,), column) for column, basis in enumerate(_BASES)]


def _params(model: str, config: str) -> dict[Figure, float]:
    found = _PARAMS[model].get(config)
    return {} if found is None else {"params": found[0], "percent": found[1]}
