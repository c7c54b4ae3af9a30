"""Reports that the tests of the page share."""

import pytest

from reports.html.page import render_page
from reports.model import Report
from tests.support.reports import PAIRED, make_dataset, make_gate, make_report, make_row, make_target_row, many_rows

COS, CHEB = "cosine", "chebyshev"
HOSTILE = "<script>alert('x')</script>&\"quoted\"</style>"


@pytest.fixture(scope="session")
def full() -> Report:
    """A report with everything: a grid, a target, bytes, paired figures, failures and warnings."""
    rows = [row.model_copy(update=PAIRED) for row in many_rows([COS, CHEB])]
    rows += [make_target_row(COS, 98.0, target_mb=0.9), make_row(COS, "2,2,2,2", 2, 40.0, finetune_undone=True)]
    for row in rows:
        values = round(1e6 * row.size_mb) - 2_500
        row.file_bytes = {"integers": values, "scales and steps": 1_900, "header": 600, "other tensors": 0}
        row.inference_ms, row.original_inference_ms, row.onnx_inference_ms = 4.5, 4.4, 2.1
    data = make_report(rows, errors=True, dataset=make_dataset("digits", 10, 360))
    for place, layer in enumerate(data.layers):
        layer.file_bytes = {"8": 4000 + place, "4": 2000 + place}
        layer.target_mb = 0.9 if layer.config == "auto" else None
    data.kernels.further = [data.kernels.model_copy(update={"layer": "layer4.0.conv1", "further": []})]
    data.gate = make_gate(False, "cosine 2,2,2,2 at 2 bits loses 59.17 points", max_drop=1.0)
    return Report.model_validate(data.model_dump())


@pytest.fixture(scope="session")
def hostile() -> Report:
    """A report whose names are markup."""
    data = make_report([make_row(COS, "3,3", 4, 98.0), make_row(COS, HOSTILE, 8, 30.0)], errors=True, model=HOSTILE)
    data.run.dataset.name = HOSTILE
    data.run.command = HOSTILE
    data.layers[0].name = data.layers[0].reason = data.kernels.layer = HOSTILE
    data.run.options["data"] = HOSTILE
    return data


@pytest.fixture(scope="module")
def page(full, plots_drawn) -> str:
    return render_page(full)


@pytest.fixture(scope="module")
def hostile_page(hostile, plots_drawn) -> str:
    return render_page(hostile)
