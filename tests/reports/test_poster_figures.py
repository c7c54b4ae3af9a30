import json
import os
from pathlib import Path

import pytest

from reports.poster import _CIFAR10, _IMAGENET, PosterFigures, poster_row, poster_table


def test_a_printed_row_is_found() -> None:
    assert poster_row("resnet20", "cifar10", 10, "chebyshev", "3,3,2,2") == PosterFigures(51.43, 89.83)
    assert poster_row("resnet18", "imagenet", 1000, "cosine", "6, 3, 3, 2, 2") == PosterFigures(56.59, 67.90)


@pytest.mark.parametrize("config", ["7x3,7x3,7x4,6x5,6x3", "7×3, 7×3, 7×4, 6×5, 6×3", "7x10,6x8"])
def test_blocks_may_be_grouped_in_any_way(config: str) -> None:
    assert poster_row("convnext_tiny", "imagenet", 1000, "cosine", config) == PosterFigures(79.10, 80.87)


@pytest.mark.parametrize("name", ["cifar10", "CIFAR-10", "cifar-10-batches-py", "cifar10.npz"])
def test_cifar10_is_known_in_any_spelling(name: str) -> None:
    assert poster_row("resnet32", name, 10, "cosine", "2,2,2,2") == PosterFigures(15.39, 87.87)


@pytest.mark.parametrize(
    ("model", "name", "classes", "basis", "config"),
    [
        ("resnet20", "digits", 10, "cosine", "3,3,3,2"),
        ("resnet20", "cifar100", 100, "cosine", "3,3,3,2"),
        ("resnet20", "cifar100", 10, "cosine", "3,3,3,2"),
        ("resnet44", "cifar10", 10, "cosine", "3,3,3,2"),
        ("resnet18", "cifar10", 10, "cosine", "6,3,3,2,2"),
        ("resnet18", "imagenet", 100, "cosine", "6,3,3,2,2"),
        ("resnet20", "cifar10", 10, "legendre", "3,3,3,2"),
        ("resnet20", "cifar10", 10, "cosine", "3,3,3,3"),
        ("resnet20", "cifar10", 10, "cosine", "dense"),
        ("resnet20", "cifar10", 10, "cosine", ""),
    ],
)
def test_what_the_poster_does_not_print_is_none(model, name, classes, basis, config) -> None:
    assert poster_row(model, name, classes, basis, config) is None


def test_the_table_stands_beside_this_run_only_where_both_have_figures(report, row, parse) -> None:
    same = {"top1_pre": 87.22, "top1_post": 91.46}
    rows = [row("cosine", "3,3,3,2", bits, 90.0, **same) for bits in (8, 4)] + [row("cosine", "3,3,3,1", 4, 80.0)]
    data = report(rows, model="resnet20", dataset={"name": "cifar10", "classes": 10, "test_images": 10_000})
    _, lines = parse(poster_table(data))
    assert lines == [["3,3,3,2", "CosConv", "87.22", "87.22", "90.75", "91.46"]]
    assert poster_table(report(rows)) == ""


def printed_rows(tables: dict) -> dict:
    """Every (model, basis, config) of the poster's tables with its Pre and Post Top-1."""
    bases = {"CosConv": "cosine", "ChebConv": "chebyshev"}
    found = {
        (model, bases[line["method"]], line["config"]): line[model]
        for line in tables["cifar10"]
        for model in ("resnet20", "resnet32")
        if line["method"] in bases
    }
    for line in tables["resnet18_imagenet"][1:]:
        found["resnet18", "cosine", line["config"]] = line["cos"]
        found["resnet18", "chebyshev", line["config"]] = line["cheb"]
    for line in tables["convnext_tiny_imagenet"][1:]:
        found |= {("convnext_tiny", basis, line["config"]): line for basis in bases.values()}
    return {key: (line["pre_top1"], line["post_top1"]) for key, line in found.items()}


@pytest.mark.real
def test_every_figure_is_the_posters() -> None:
    folder = os.environ.get("SERIESQUANT_DATA")
    if not folder:
        pytest.skip("SERIESQUANT_DATA is not set: it names the folder of poster_tables.json")
    printed = printed_rows(json.loads((Path(folder) / "poster_tables.json").read_text()))
    ours = {
        (model, basis, config): figures[column]
        for models in (_CIFAR10, _IMAGENET)
        for model, configs in models.items()
        for config, figures in configs.items()
        for column, basis in enumerate(("cosine", "chebyshev"))
    }
    assert ours == printed
