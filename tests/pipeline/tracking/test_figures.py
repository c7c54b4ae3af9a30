import json

import pytest

from pipeline.options.options import Options
from pipeline.tracking.figures import curve_point, final_metrics, parameters, report_files
from pipeline.training.state import EpochFigures, TrainingLabel
from tests.pipeline.tracking.conftest import FILES, REPORT


def test_parameters_are_plain_values() -> None:
    options = Options(config=["3,3,2,2", "dense"], bits=(8, 4), distill=False, lr=None, epochs=0)
    found = parameters(options.model_dump(mode="json"))
    assert (found["config"], found["bits"], found["basis"]) == ("3,3,2,2 dense", "8,4", "cosine")
    assert (found["distill"], found["epochs"], found["calibration_size"]) == (False, 0, 1000)
    assert found["out"] == "runs/resnet20-digits-3,3,2,2_dense"
    assert not {"lr", "track", "limit_test"} & set(found)
    assert all(isinstance(value, str | int | float) for value in found.values())


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (TrainingLabel("cosine 3,3,2,2", "finetune"), "cosine-3.3.2.2/finetune"),
        (TrainingLabel("chebyshev 7x3,7x9", "finetune"), "chebyshev-7x3.7x9/finetune"),
        (TrainingLabel("dense", "finetune"), "dense/finetune"),
        (TrainingLabel("cosine 3,3,2,2", "qat", 4), "cosine-3.3.2.2-4/qat"),
        (TrainingLabel("baseline", "training"), "baseline/training"),
        (TrainingLabel("cosine auto, 0.04mb", "rounding"), "cosine-auto-0.04mb/rounding"),
        (TrainingLabel("cosine 3,3,2,2, drop0.5, 0.04mb", "rounding"), "cosine-3.3.2.2-drop0.5-0.04mb/rounding"),
    ],
)
def test_a_curve_is_named_after_its_training(label: TrainingLabel, name: str) -> None:
    point = curve_point(label, EpochFigures(epoch=1, loss=0.5, lr=0.02))
    assert point == {f"{name}/loss": 0.5, f"{name}/lr": 0.02}


def test_final_metrics_are_the_reports_numbers() -> None:
    whole, four, eight = final_metrics(REPORT)
    assert whole == {
        "baseline/top1": 91.73,
        "baseline/params": 269_722,
        "baseline/size_mb": 1.09,
        "run/duration_s": 12.5,
        "gate/passed": 0.0,
    }
    fields = ("top1_pre", "top1_post", "top1_quant", "delta_quant", "size_mb")
    assert four == {f"cosine-3.3.2.2-4/{field}": REPORT["rows"][0][field] for field in fields}
    assert set(eight) == {f"cosine-3.3.2.2-8/{field}" for field in fields}


@pytest.mark.parametrize(
    ("target", "label"),
    [({"target_mb": 0.04, "target_drop": None}, "0.04mb"), ({"target_mb": None, "target_drop": 0.5}, "drop0.5")],
)
def test_a_row_of_a_target_has_it_in_its_name(target: dict[str, float | None], label: str) -> None:
    row = {"basis": "cosine", "config": "auto", "bits": None, "top1_quant": 90.6, "top1_post": None, **target}
    _, metrics = final_metrics(REPORT | {"rows": [row]})
    assert metrics == {f"cosine-auto-{label}/top1_quant": 90.6}


def test_no_gate_no_metric() -> None:
    assert "gate/passed" not in next(final_metrics(REPORT | {"gate": {"max_drop": None, "passed": None}}))


def test_files_are_those_of_the_report_smallest_first(finished) -> None:
    (finished / "options.yaml").write_text(json.dumps({}))
    found = report_files(REPORT, finished)
    assert [path.relative_to(finished).as_posix() for path, _ in found] == ["options.yaml", *FILES]
    assert {below for path, below in found if path.suffix == ".onnx"} == {"artifacts"}
    assert [below for _, below in found][:2] == ["", ""]
