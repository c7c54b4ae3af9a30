"""Rows of a target in whole runs: files, rows, layers, gate, plan, and targets that are refused."""

import dataclasses
import pickle

import pytest
import torch

from pipeline.artifact import load
from pipeline.cli import main
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import LayerPlan
from pipeline.options.grid import Target, variants
from pipeline.options.options import Options
from pipeline.runner import run
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.context import make_context
from pipeline.stages.dry_run import plan_text
from pipeline.stages.evaluate import Measurement
from pipeline.stages.export import OnnxFigures
from pipeline.stages.layers import count_kept, layer_rows
from pipeline.stages.predictions import Predictions
from pipeline.stages.quantize import QuantizedNetwork
from pipeline.stages.targets.compressor import TargetCompressor
from pipeline.stages.targets.sizes import target_range
from pipeline.stages.timing import InferenceTimes
from pipeline.stages.train import TrainingSummary
from pipeline.stages.variant import FloatFigures, VariantResult
from quant.counting import count_params
from tests.support.networks import tiny_network
from tests.support.report_schema import read_report

CHOSEN = {"model": "tiny_net:make", "data": "colours.npz", "epochs": 0, "limit_train": 128}


def feasible(**changes) -> tuple[int, int]:
    """The smallest and the largest feasible size, in bytes."""
    options = Options(**(CHOSEN | {"target_drop": 1.0} | changes))
    context = make_context(options, make_accelerator("cpu"), SilentProgress(), Interruption())
    return target_range(context, variants(options)[0])


def middle(**changes) -> float:
    """A feasible size in MB."""
    smallest, largest = feasible(**changes)
    return (smallest + largest) // 2 / 1e6


@pytest.fixture(scope="module")
def finished(folder):
    """A run of a target size and a loss in two bases, beside a dense row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
        size = middle()
        options = {"target_mb": size, "target_drop": 5, "basis": "cosine,chebyshev", "dense_bits": 4, "out": "targets"}
        return size, run(Options(**CHOSEN, **options))


def test_each_target_has_a_row_a_file_and_no_float_figures(here, finished):
    size, result = finished
    report = read_report(here / "targets")
    rows = [row for row in report["rows"] if row["config"] == "auto"]
    assert [(row["basis"], row["target_mb"], row["target_drop"]) for row in rows] == [
        (basis, *target) for basis in ("cosine", "chebyshev") for target in ((size, None), (None, 5.0))
    ]
    for row in rows:
        path = here / "targets" / row["artifact"]
        label = Target(row["target_mb"], row["target_drop"]).label
        assert path.name == f"{row['basis']}-auto-{label}.safetensors"
        assert row["size_mb"] == path.stat().st_size / 1e6
        assert row["reloaded_logits_max_abs_diff"] == 0
        assert load(path, allow_import=True)
        unknown = ("bits", "stored_bits", "backend", "top1_pre", "top1_post", "delta_post", "delta_quant")
        assert {row[name] for name in (*unknown, "poster_size_mb", "compressible_params")} == {None}
        assert (row["scheme"], row["epochs"]) == ("stepped", 0)
        assert row["delta_baseline"] == pytest.approx(row["top1_quant"] - report["baseline"]["top1"], abs=2e-4)
        assert 0 < row["bits_per_value"] < 10
        assert 0 < row["params"] <= report["baseline"]["params"]
    dense = [row for row in report["rows"] if row["config"] == "dense"]
    assert {row["bits"] for row in dense} == {4}
    assert {row["delta_baseline"] is not None for row in dense} == {True}
    assert result.exit_code == report["exit_code"]


def test_the_gate_compares_every_file_with_its_target(finished):
    _, result = finished
    rows = [row for row in result.report["rows"] if row["target_mb"] is not None]
    missed = [row for row in rows if not 0.97 * row["target_mb"] <= row["size_mb"] <= row["target_mb"]]
    assert [row["target_met"] for row in rows] == [row not in missed for row in rows]
    failures = [failure for failure in result.report["gate"]["failures"] if "--target-mb" in failure]
    assert len(failures) == len(missed)
    assert result.exit_code == (3 if result.report["gate"]["failures"] else 0)


def test_each_target_has_its_own_layers(finished):
    _, result = finished
    layers = [layer for layer in result.report["layers"] if layer["config"] == "auto"]
    assert len(layers) == 4 * 5
    for layer in layers:
        assert set(layer["rounding_error"]) == {"coded"}
        if layer["terms"]:
            rows, columns = layer["order"]
            assert 1 <= layer["terms"] <= rows * columns


def test_a_repeated_run_computes_nothing(here, finished):
    size, first = finished
    options = {"target_mb": size, "target_drop": 5, "basis": "cosine,chebyshev", "dense_bits": 4, "out": "targets"}
    second = run(Options(**CHOSEN, **options)).report
    assert all(stage["cached"] for stage in second["run"]["stages"])
    assert second["rows"] == first.report["rows"]
    assert " to do" not in plan_text(Options(**CHOSEN, **options))


def test_the_measurements_for_a_size_and_for_a_loss_have_names_of_their_own(finished):
    """They take other images: those that limit the loss are left out of its measurement."""
    names = [stage["name"] for stage in finished[1].report["run"]["stages"]]
    assert len(set(names)) == len(names)
    assert {"cosine auto: measurement", "cosine auto, drop5: measurement"} <= set(names)


def test_a_target_that_is_missed_is_exit_3_and_the_report_is_written(here, monkeypatch, capsys):
    real = TargetCompressor.compress
    monkeypatch.setattr(
        TargetCompressor, "compress", lambda *given: dataclasses.replace(real(*given), target_met=False)
    )
    flags = [word for name, value in CHOSEN.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main([*flags, "--target-drop", "5", "--out", "missed"]) == 3
    report = read_report(here / "missed")
    assert (report["exit_code"], report["gate"]["passed"], report["rows"][0]["target_met"]) == (3, False, False)
    assert "--target-drop 5" in report["gate"]["failures"][0]
    assert "target missed" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.999, 1.001])
def test_a_size_outside_the_feasible_range_is_refused_before_anything_is_measured(here, share, monkeypatch):
    monkeypatch.setattr("pipeline.runner.prepare_baseline", None)
    smallest, largest = feasible(config="3,2,2")
    size = (smallest if share < 1 else largest) * share / 1e6
    options = Options(**CHOSEN, config="3,2,2", target_mb=size, out="refused")
    words = rf"--target-mb: got .* for cosine 3,2,2; allowed: {smallest / 1e6:.12g} to {largest / 1e6:.12g} MB"
    for refused in (run, plan_text):
        with pytest.raises(OptionsError, match=words):
            refused(options)
    assert read_report(here / "refused")["exit_code"] == 2


def test_a_cap_lowers_the_largest_size(here):
    assert feasible(config="3,2,2")[1] < feasible()[1]


def test_the_plan_shows_targets_and_the_feasible_range(here, tmp_path):
    smallest, largest = feasible()
    text = plan_text(Options(**CHOSEN, target_mb=0.0025, target_drop=1, cache_dir=tmp_path))
    assert f"feasible files of {smallest / 1e6:.12g} to {largest / 1e6:.12g} MB" in text
    assert "cosine auto: a file of 0.002425 to 0.0025 MB" in text
    assert "loses at most 1 point on" in text
    states = [line for line in text.splitlines() if line.endswith("to do")]
    assert [name for name in ("0.0025mb", "drop1") if any(name in line for line in states)] == ["0.0025mb", "drop1"]


PLANS = [
    LayerPlan("0.0", (5, 5), (5, 5), "full", "no largest order"),
    LayerPlan("1.0", (3, 3), (3, 3), "full", "no largest order"),
    LayerPlan("2.0", (3, 3), (3, 3), "full", "no largest order"),
    LayerPlan("5", None, None, "kept", "linear layer, no spatial kernel"),
]


def result_of(target: Target, terms: dict[str, tuple[int, int, int]]) -> VariantResult:
    """A result whose target keeps these terms."""
    (variant,) = variants(Options(**CHOSEN, target_mb=target.megabytes))
    figures = FloatFigures(PLANS, {}, None, None, 100, None, TrainingSummary())
    made = QuantizedNetwork(
        artifact=b"",
        portable=None,
        measured=Measurement(90.0, None, Predictions(torch.zeros(2), torch.zeros(2))),
        logits=torch.zeros(2, 4),
        rounding_errors={"0.0": 0.1},
        training=TrainingSummary(),
        onnx=OnnxFigures(reason="none"),
        bits_per_value=1.5,
        terms=terms,
        target_met=True,
        inference=InferenceTimes(),
        layer_bytes={},
        file_bytes={},
    )
    return VariantResult(variant, figures, {target: made})


def test_layers_show_the_terms_that_they_keep():
    rows = layer_rows(result_of(Target(megabytes=0.002), {"0.0": (2, 3, 5), "1.0": (0, 0, 0)}))
    found = [(row.order, row.terms, row.status) for row in rows]
    assert found == [([2, 3], 5, "compressed"), (None, 0, "compressed"), (None, None, "kept"), (None, None, "kept")]
    assert [row.reason for row in rows][2:] == ["stored as a kernel", "linear layer, no spatial kernel"]
    assert "5 of 25 terms" in rows[0].reason
    assert {row.target_mb for row in rows} == {0.002}


def test_a_result_is_sent_between_processes():
    target = Target(drop=0.5)
    sent = pickle.loads(pickle.dumps(result_of(Target(megabytes=0.002), {})))
    assert sent.quantized[Target(megabytes=0.002)].top1 == 90.0
    assert pickle.loads(pickle.dumps(target)) == target


def test_kept_terms_are_the_parameters_that_count():
    network = tiny_network()
    assert count_kept(network, {}) == count_params(network)
    assert count_kept(network, {"0.0": (2, 3, 5)}) == count_params(network) - 8 * 3 * (25 - 5)
