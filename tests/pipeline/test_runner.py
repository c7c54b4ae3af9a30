"""Whole runs in the process: their grid, rows and figures."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.artifact import load
from pipeline.data.sources import load_dataset
from pipeline.onnx.session import open_session
from pipeline.runner import run
from pipeline.stages.dry_run import plan_text
from pipeline.stages.evaluate import evaluate
from pipeline.stages.export import evaluate_onnx
from tests.support.report_schema import read_report
from tests.support.runs import options, without_times


@pytest.fixture(scope="module")
def finished(folder):
    """One grid of 3 configs, 2 bases and 2 widths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
        return run(options(folder, "grid"))


def test_the_grid_is_complete_and_each_figure_holds(here, finished):
    report = read_report(here / "grid")
    keys = [(row["config"], row["basis"], row["bits"]) for row in report["rows"]]
    assert len(keys) == len(set(keys)) == 12
    data = load_dataset("colours.npz")
    for row in report["rows"]:
        path = here / "grid" / row["artifact"]
        assert row["size_mb"] == path.stat().st_size / 1e6
        assert row["reloaded_logits_max_abs_diff"] == 0
        again = evaluate(load(path, allow_import=True), data.test, device=torch.device("cpu"))
        assert row["top1_quant"] == pytest.approx(again.top1, abs=1e-4)
        assert row["delta_quant"] == pytest.approx(row["top1_quant"] - row["top1_post"], abs=2e-4)
        assert row["delta_post"] == pytest.approx(row["top1_post"] - report["baseline"]["top1"], abs=2e-4)
    assert (here / "grid" / report["baseline"]["artifact"]).stat().st_size / 1e6 == report["baseline"]["size_mb"]
    assert finished.exit_code == 0


def test_every_row_has_an_onnx_file_whose_figures_hold(here, finished):
    data = load_dataset("colours.npz")
    for row in finished.report["rows"]:
        path = here / "grid" / row["onnx"]
        assert path.name == f"{row['basis']}-{row['config']}-{row['bits']}.onnx"
        assert row["onnx_size_mb"] == path.stat().st_size / 1e6
        again = evaluate_onnx(open_session(path, fold=False), data.test)
        assert row["onnx_top1"] == pytest.approx(again.top1, abs=1e-4)
        assert (row["onnx_differing_predictions"], row["onnx_bits"], row["onnx_reason"]) == (0, row["bits"], None)


def test_without_onnx_files_nothing_else_changes(here, finished):
    """The folder has a file of an earlier run, which is none of this one."""
    (here / "plain" / "artifacts").mkdir(parents=True)
    (here / "plain" / "artifacts" / "cosine-3,2,2-4.onnx").touch()
    plain = run(options(here, "plain", config="3,2,2", basis="cosine", bits=4, onnx=False))
    (row,) = plain.report["rows"]
    expected = next(each for each in finished.report["rows"] if each["artifact"] == row["artifact"])
    assert row["sha256"] == expected["sha256"]
    assert {name: value for name, value in row.items() if "onnx" in name and value is not None} == {}
    assert list((here / "plain" / "artifacts").glob("*.onnx")) == []
    assert "ONNX" not in (here / "plain" / "report.md").read_text()


def test_dense_rows_are_the_baseline(finished):
    dense = [row for row in finished.report["rows"] if row["config"] == "dense"]
    assert {row["top1_post"] for row in dense} == {round(finished.report["baseline"]["top1"], 4)}
    assert {row["top1_pre"] for row in dense} == {None}
    assert {row["params_percent"] for row in dense} == {100}
    assert len({row["sha256"] for row in dense if row["bits"] == 4}) == 1


def test_dense_bits_give_dense_rows_the_same_training(here, finished):
    report = run(options(here, "rivals", config=("3,2,2",), dense_bits=(4, 3), qat_epochs=1)).report
    rows = {(row["config"], row["basis"], row["bits"]): row for row in report["rows"]}
    dense = [row for row in report["rows"] if row["config"] == "dense"]
    assert set(rows) == {(c, b, n) for b in ("cosine", "chebyshev") for c, n in RIVALS}
    assert {(row["epochs"], row["qat_epochs"]) for row in report["rows"]} == {(1, 1)}
    assert all((here / "rivals" / row["artifact"]).stat().st_size == round(row["size_mb"] * 1e6) for row in dense)
    untrained = next(row for row in finished.report["rows"] if (row["config"], row["bits"]) == ("dense", 4))
    assert untrained["sha256"] not in {row["sha256"] for row in dense}


RIVALS = [("3,2,2", 8), ("3,2,2", 4), ("dense", 4), ("dense", 3)]


def test_the_dense_network_as_it_is_stays_untrained_beside_the_one_that_trains(here):
    chosen = {"config": ("3,2,2", "dense"), "basis": ("cosine",), "bits": (8,), "dense_bits": (3,)}
    report = run(options(here, "both", **chosen)).report
    dense = {row["bits"]: row["epochs"] for row in report["rows"] if row["config"] == "dense"}
    assert dense == {8: 0, 3: 1}
    layers = [layer for layer in report["layers"] if layer["config"] == "dense"]
    assert len({layer["name"] for layer in layers}) == len(layers)
    assert {tuple(layer["rounding_error"]) for layer in layers} == {("8", "3")}


def test_params_are_those_of_the_plan(finished):
    params = {row["config"]: row["params"] for row in finished.report["rows"]}
    rest = 8 + (8 * 12 + 12) + 16 + (16 * 4 + 4)
    assert params["5,3,3"] == 8 * 3 * 25 + 8 * 9 + 16 * 12 * 9 + rest == finished.report["baseline"]["params"]
    assert params["3,2,2"] == 8 * 3 * 9 + 8 * 4 + 16 * 12 * 4 + rest


def test_full_orders_lose_nothing_before_training(finished):
    row = next(row for row in finished.report["rows"] if row["config"] == "5,3,3")
    assert row["top1_pre"] == finished.report["baseline"]["top1"]


def test_the_same_command_gives_the_same_report(here):
    first = run(options(here, "once", config=("3,2,2",), qat_epochs=1))
    kept = json.loads(first.report_path.with_name("report.json").read_text())
    second = run(options(here, "once", config=("3,2,2",), qat_epochs=1, fresh=False))
    assert without_times(json.loads(second.report_path.with_name("report.json").read_text())) == without_times(kept)


def test_another_seed_gives_another_network(here):
    digests = [
        run(options(here, f"seed{seed}", config=("3,2,2",), bits=(4,), basis=("cosine",), seed=seed, epochs=0)).report[
            "rows"
        ][0]
        for seed in (0, 1)
    ]
    assert digests[0]["sha256"] != digests[1]["sha256"]


def test_the_two_backends_agree(here):
    rows = [
        run(options(here, "backend", config=("3,2,2",), bits=(8,), backend=backend, epochs=0)).report["rows"][0]
        for backend in ("brevitas", "torch.ao")
    ]
    assert rows[0]["top1_quant"] == pytest.approx(rows[1]["top1_quant"], abs=100 / 61 + 1e-9)


def test_gptq_runs_and_is_reproducible(here):
    reports = [
        run(options(here, "gptq", config=("3,2,2",), bits=(3,), rounding="gptq", calibration_size=40)).report
        for _ in range(2)
    ]
    assert reports[0]["run"]["calibration_images"] == 40
    assert reports[0]["rows"] == reports[1]["rows"]
    assert {row["rounding"] for row in reports[0]["rows"]} == {"gptq"}


def test_the_dry_run_says_the_size_that_is_written(here, finished):
    text = plan_text(options(here, "grid"))
    for row in finished.report["rows"]:
        line = next(x for x in text.splitlines() if x.startswith(f"{row['basis']} {row['config']}, {row['bits']} bits"))
        assert f"{row['params']:,} parameters" in line
        said = float(re.search(r"([\d.]+) MB", line)[1])
        assert said == pytest.approx(row["size_mb"], rel=0.01, abs=0.0006)


def test_minifloats_take_their_stored_bits_and_reload_exactly(here):
    chosen = options(here, "minifloat", config=("3,2,2",), basis=("cosine",), scheme="minifloat", epochs=0)
    rows = run(chosen).report["rows"]
    assert [(row["scheme"], row["bits"], row["stored_bits"]) for row in rows] == [
        ("minifloat", 8, 16),
        ("minifloat", 4, 12),
    ]
    assert {row["reloaded_logits_max_abs_diff"] for row in rows} == {0}
    assert [abs(row["delta_quant"]) < 5 for row in rows] == [True, True]
    stored = 8 * 3 * 9 + 8 * 4 + 16 * 12 * 4 + 8 * 12 + 16 * 4
    assert rows[0]["size_mb"] - rows[1]["size_mb"] == pytest.approx(stored * 4 / 8e6, rel=0.15)
    text = plan_text(chosen)
    for row in rows:
        said = re.search(rf"{row['bits']} bits \({row['stored_bits']} stored\).* ([\d.]+) MB", text)
        # Three decimals are said, and the normalizations of an untrained network take some bytes less.
        assert float(said[1]) == pytest.approx(row["size_mb"], rel=0.01, abs=0.0007)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_minifloats_train_through_their_rounding(here, rounding):
    chosen = {"config": ("3,2,2",), "basis": ("cosine",), "bits": (2,), "scheme": "minifloat", "epochs": 0}
    before, after = (
        run(options(here, f"qat{epochs}", rounding=rounding, qat_epochs=epochs, **chosen)).report["rows"][0]
        for epochs in (0, 1)
    )
    assert after["qat_undone"] is (after["sha256"] == before["sha256"])
    assert rounding == "gptq" or not after["qat_undone"], "rounding to nearest leaves something to gain"
    assert after["reloaded_logits_max_abs_diff"] == 0


def test_a_lock_file_of_another_user_is_said_before_any_work(here, monkeypatch):
    lock = here / "theirs" / ".seriesquant.lock"
    lock.parent.mkdir()
    lock.touch()
    monkeypatch.setattr("pipeline.runner.make_context", None)
    monkeypatch.setattr(os, "access", lambda path, mode: path != Path("theirs") / lock.name)
    with pytest.raises(OSError, match=r"lock file .*theirs/\.seriesquant\.lock; allowed: another --out"):
        run(options(here, "theirs"))


@pytest.mark.parametrize(
    ("obstacle", "make"),
    [
        ("report.json", Path.mkdir),
        (".seriesquant.lock", Path.mkdir),
        ("report.html", Path.mkdir),
        ("artifacts/cosine-3,2,2-8.safetensors", Path.mkdir),
        ("artifacts", Path.touch),
        ("plots", Path.touch),
    ],
)
def test_what_stands_in_the_way_of_a_file_is_said_before_any_work(here, monkeypatch, obstacle, make):
    folder = here / "blocked"
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / obstacle
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    monkeypatch.setattr("pipeline.runner.make_context", None)
    with pytest.raises(OSError, match=rf"{re.escape(obstacle)}; allowed"):
        run(options(here, "blocked"))
