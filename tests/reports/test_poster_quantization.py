import json
import os
from pathlib import Path

import pytest

from reports.markdown import render
from reports.poster_quantization import POSTER_QUANTIZATION, poster_quantization_table

COS, CHEB = "cosine", "chebyshev"
IMAGENET = {"dataset": {"name": "imagenet", "classes": 1000, "test_images": 50_000}}
MINIFLOAT = {"scheme": "minifloat", "stored_bits": 12}


def test_minifloats_stand_beside_the_poster_like_for_like(report, row, parse) -> None:
    rows = [row(COS, "6,3,3,2,2", 4, 65.0), row(COS, "6,3,3,2,2", 4, 64.5, size_mb=9.0, **MINIFLOAT)]
    rows += [row(CHEB, "6,3,3,2,2", 4, 64.25, size_mb=9.0, **MINIFLOAT), row(COS, "2,2,2,2,2", 4, 60.0, **MINIFLOAT)]
    titles, lines = parse(poster_quantization_table(report(rows, **IMAGENET)))
    assert titles[:5] == ["Bits", "Config", "Basis", "Poster, stored bits", "Here, stored bits"]
    assert lines == [
        ["4", "6,3,3,2,2", "CosConv", "12", "12", "64.10", "64.50", "8.90", "9.00"],
        ["4", "6,3,3,2,2", "ChebConv", "12", "12", "63.88", "64.25", "8.90", "9.00"],
    ]


def test_integers_alone_show_that_they_store_fewer_bits(report, row, parse) -> None:
    rows = [row(COS, "dense", 8, 69.5, size_mb=11.8), row(CHEB, "dense", 8, 69.5, size_mb=11.8)]
    _, lines = parse(poster_quantization_table(report(rows, **IMAGENET)))
    assert lines == [["8", "Conv2D", "-", "16", "8", "69.74", "69.50", "23.4", "11.8"]]
    assert "Poster, stored bits" in render(report(rows, **IMAGENET))


@pytest.mark.parametrize(
    "run",
    [
        {"model": "resnet34", **IMAGENET},
        {"dataset": {"name": "imagenet", "classes": 100, "test_images": 50}},
        {"dataset": {"name": "digits", "classes": 1000, "test_images": 50}},
    ],
)
def test_it_is_empty_where_the_poster_has_no_such_row(report, row, run) -> None:
    assert poster_quantization_table(report([row(COS, "6,3,3,2,2", 4, 65.0)], **run)) == ""
    assert poster_quantization_table(report([row(COS, "6,3,3,2,2", 3, 65.0)], **IMAGENET)) == ""


@pytest.mark.real
def test_every_figure_is_the_posters() -> None:
    tables = json.loads((Path(os.environ["SERIESQUANT_DATA"]) / "poster_tables.json").read_text())
    printed = {
        (line["bits"], line["config"].replace("Conv2D", "dense")): (
            {"cosine": line["cos"]["quant_top1"], "chebyshev": line["cheb"]["quant_top1"]},
            line["size_mb"],
        )
        for line in tables["quantization_resnet18_imagenet"]
    }
    assert printed == POSTER_QUANTIZATION
