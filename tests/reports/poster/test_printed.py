"""Every cell of the poster's tables, against the file of its figures."""

import json

import pytest

from reports.poster.printed import quantized_rows, top1_rows

pytestmark = pytest.mark.real
NAMES = {"pre_top1": "pre", "post_top1": "post", "top1": "float", "quant_top1": "quantized", "size_mb": "size"}
SHARED = {"params_million": "params", "compressible_params_million": "params", "params_percent": "percent"}
METHODS = {"FracSRF (our regression and retraining)": "FracSRF, own regression"}
COLUMNS = {"CosConv": "cos", "ChebConv": "cheb"}


@pytest.fixture(scope="module")
def tables(data_folder):
    return json.loads((data_folder / "poster_tables.json").read_text())


def figures(cells, delta="delta"):
    """The printed cells by our names."""
    names = NAMES | SHARED | {"delta": delta}
    return {names[name]: value for name, value in cells.items() if name in names and value is not None}


def config(row):
    return {"dense": "-", "all": "-"}.get(row.config, row.config)


@pytest.mark.parametrize("model", ["resnet20", "resnet32"])
def test_cifar10(tables, model):
    shared = {name: model + "_" + name for name in SHARED}
    printed = {
        (METHODS.get(line["method"], line["method"]), line["config"]): figures(
            line[model] | {name: line.get(theirs) for name, theirs in shared.items()}
        )
        for line in tables["cifar10"]
        if line[model]
    }
    assert {(row.method, config(row)): row.figures for row in top1_rows(model)} == printed


def test_resnet18(tables):
    printed = {("Conv2D", "-"): figures(tables["resnet18_imagenet"][0] | tables["resnet18_imagenet"][0]["cos"])}
    for line in tables["resnet18_imagenet"][1:]:
        printed |= {(name, line["config"]): figures(line | line[column]) for name, column in COLUMNS.items()}
    assert {(row.method, config(row)): row.figures for row in top1_rows("resnet18")} == printed


def test_convnext(tables):
    lines = tables["convnext_tiny_imagenet"]
    printed = {line["config"].replace("Conv2D", "-"): figures(line) for line in lines}
    assert {config(row): row.figures for row in top1_rows("convnext_tiny")} == printed


def test_quantization(tables):
    printed = {}
    for line in tables["quantization_resnet18_imagenet"]:
        if line["config"] == "Conv2D":
            assert line["cos"] == line["cheb"]
            printed["Conv2D", "-", line["bits"]] = figures(line | line["cos"], "quantized_delta")
        else:
            for name, column in COLUMNS.items():
                printed[name, line["config"], line["bits"]] = figures(line | line[column], "quantized_delta")
    assert {(row.method, config(row), row.bits): row.figures for row in quantized_rows()} == printed
