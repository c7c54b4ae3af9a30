import json
import os
from pathlib import Path

import pytest

from reports.markdown import render
from reports.poster import PosterFigures, poster_quantization_table, poster_row, poster_table
from reports.poster.figures import POSTER_CIFAR10, POSTER_IMAGENET, POSTER_QUANTIZATION
from tests.support.reports import make_dataset


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
def test_other_rows_have_no_figures(model, name, classes, basis, config) -> None:
    assert poster_row(model, name, classes, basis, config) is None


def test_the_table_has_the_rows_that_both_have(report, row, parse) -> None:
    same = {"top1_pre": 87.22, "top1_post": 91.46}
    rows = [row("cosine", "3,3,3,2", bits, 90.0, **same) for bits in (8, 4)] + [row("cosine", "3,3,3,1", 4, 80.0)]
    data = report(rows, model="resnet20", dataset=make_dataset("cifar10", 10))
    data.baseline.top1 = 90.5
    _, lines = parse(poster_table(data))
    assert lines == [["3,3,3,2", "CosConv", "87.22", "87.22", "90.75", "91.46"]]
    assert poster_table(report(rows)) == ""


@pytest.mark.parametrize(
    ("top1", "images", "shown"), [(91.73, 10_000, True), (89.8, 10_000, True), (89.0, 10_000, False), (88.0, 100, True)]
)
def test_only_a_run_with_a_baseline_like_the_posters_is_compared(report, row, top1, images, shown) -> None:
    data = report([row("cosine", "3,3,3,2", 4, 80.0)], model="resnet20", dataset=make_dataset("cifar10", 10, images))
    data.baseline.top1 = top1
    assert bool(poster_table(data)) is shown
    data.baseline.top1 = None
    assert poster_table(data) == ""


def test_a_run_without_fine_tuning_is_compared_after_the_fit(report, row, parse) -> None:
    rows = [row("cosine", "3,3,3,2", 4, 80.0, epochs=0, top1_pre=87.22, top1_post=87.22)]
    data = report(rows, model="resnet20", dataset=make_dataset("cifar10", 10))
    data.baseline.top1 = 91.73
    headers, lines = parse(poster_table(data))
    assert headers == ["Config", "Basis", "Poster, Pre Top1", "Here, Pre Top1"]
    assert lines == [["3,3,3,2", "CosConv", "87.22", "87.22"]]
    merged = [*rows, row("cosine", "3,3,2,2", 4, 80.0, epochs=5, top1_pre=51.43, top1_post=91.48)]
    data = report(merged, model="resnet20", dataset=make_dataset("cifar10", 10))
    data.baseline.top1 = 91.73
    headers, lines = parse(poster_table(data))
    assert headers[4:] == ["Poster, Post Top1", "Here, Post Top1"]
    assert [line[4:] for line in lines] == [["90.75", "-"], ["89.55", "91.48"]]


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
def test_every_top1_is_the_posters() -> None:
    folder = os.environ.get("SERIESQUANT_DATA")
    if not folder:
        pytest.skip("SERIESQUANT_DATA is not set: it names the folder of poster_tables.json")
    printed = printed_rows(json.loads((Path(folder) / "poster_tables.json").read_text()))
    ours = {
        (model, basis, config): figures[column]
        for models in (POSTER_CIFAR10, POSTER_IMAGENET)
        for model, configs in models.items()
        for config, figures in configs.items()
        for column, basis in enumerate(("cosine", "chebyshev"))
    }
    assert ours == printed


COS, CHEB = "cosine", "chebyshev"
IMAGENET = {"dataset": make_dataset("imagenet", 1000, 50_000)}
MINIFLOAT = {"scheme": "minifloat", "stored_bits": 12}


@pytest.fixture
def imagenet(report):
    """Make a report of ResNet-18 with the poster's baseline."""

    def make(rows):
        data = report(rows, **IMAGENET)
        data.baseline.top1 = 69.76
        return data

    return make


def test_minifloats_stand_beside_the_poster_like_for_like(imagenet, row, parse) -> None:
    rows = [row(COS, "6,3,3,2,2", 4, 65.0), row(COS, "6,3,3,2,2", 4, 64.5, size_mb=9.0, **MINIFLOAT)]
    rows += [row(CHEB, "6,3,3,2,2", 4, 64.25, size_mb=9.0, **MINIFLOAT), row(COS, "2,2,2,2,2", 4, 60.0, **MINIFLOAT)]
    titles, lines = parse(poster_quantization_table(imagenet(rows)))
    assert titles[:5] == ["Bits", "Config", "Basis", "Poster, stored bits", "Here, stored bits"]
    assert lines == [
        ["4", "6,3,3,2,2", "CosConv", "12", "12", "64.10", "64.50", "8.90", "9.00"],
        ["4", "6,3,3,2,2", "ChebConv", "12", "12", "63.88", "64.25", "8.90", "9.00"],
    ]


def test_integers_alone_show_that_they_store_fewer_bits(imagenet, row, parse) -> None:
    rows = [row(COS, "dense", 8, 69.5, size_mb=11.8), row(CHEB, "dense", 8, 69.5, size_mb=11.8)]
    _, lines = parse(poster_quantization_table(imagenet(rows)))
    assert lines == [["8", "Conv2D", "-", "16", "8", "69.74", "69.50", "23.4", "11.8"]]
    assert "Poster, stored bits" in render(imagenet(rows))


@pytest.mark.parametrize(
    "run",
    [
        {"model": "resnet34", **IMAGENET},
        {"dataset": make_dataset("imagenet", 100)},
        {"dataset": make_dataset("digits", 1000)},
    ],
)
def test_it_is_empty_for_other_rows(report, imagenet, row, run) -> None:
    other = report([row(COS, "6,3,3,2,2", 4, 65.0)], **run)
    other.baseline.top1 = 69.76
    assert poster_quantization_table(other) == ""
    assert poster_quantization_table(imagenet([row(COS, "6,3,3,2,2", 3, 65.0)])) == ""
    assert (
        poster_quantization_table(report([row(COS, "6,3,3,2,2", 4, 65.0)], **IMAGENET)) == ""
    )  # its baseline is 99.17


@pytest.mark.real
def test_every_quantized_figure_is_the_posters() -> None:
    tables = json.loads((Path(os.environ["SERIESQUANT_DATA"]) / "poster_tables.json").read_text())
    printed = {
        (line["bits"], line["config"].replace("Conv2D", "dense")): (
            {"cosine": line["cos"]["quant_top1"], "chebyshev": line["cheb"]["quant_top1"]},
            line["size_mb"],
        )
        for line in tables["quantization_resnet18_imagenet"]
    }
    assert printed == POSTER_QUANTIZATION
