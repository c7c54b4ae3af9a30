"""Whole runs, in the process and as the command that users run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.acceleration import make_accelerator
from pipeline.artifact import load
from pipeline.data.sources import load_dataset
from pipeline.dry_run import plan_text
from pipeline.errors import BusyError
from pipeline.evaluation import evaluate
from pipeline.onnx.session import evaluate_onnx, open_session
from pipeline.options import Options
from pipeline.runner import run
from pipeline.store.locks import locked
from pipeline.training import Schedule, train
from tests.pipeline.networks import tiny_network, write_module, write_npz
from tests.report_schema import read_report

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data and a user's module, which is the current folder of every run."""
    folder = tmp_path_factory.mktemp("work")
    write_npz(folder / "colours.npz")
    write_module(folder)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SERIESQUANT_CACHE", str(folder / "cache"))
    return folder


def options(here, out, **changes):
    chosen = {
        "config": ("5,3,3", "3,2,2", "dense"),
        "basis": ("cosine", "chebyshev"),
        "bits": (8, 4),
        "model": "tiny_net:make",
        "data": "colours.npz",
        "epochs": 1,
        "out": Path(out),
    }
    return Options(**(chosen | changes))


@pytest.fixture
def finished(here):
    """One grid of 3 configs, 2 bases and 2 widths."""
    return run(options(here, "grid"))


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


UNTRACEABLE = """
from tiny_net import make as dense
from torch import nn


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(x if float(x.sum()) > 0 else x + 0)


def make(num_classes=4):
    return Branching(*dense(num_classes))
"""


def test_a_network_without_onnx_form_is_compressed_all_the_same(here):
    (here / "branching.py").write_text(UNTRACEABLE)
    done = command(here, *GRID, "--model", "branching:make", "--epochs", "0", "--out", "branching")
    assert done.returncode == 0, done.stderr
    row = json.loads((here / "branching" / "report.json").read_text())["rows"][0]
    fields = ("onnx", "onnx_size_mb", "onnx_top1", "onnx_differing_predictions", "onnx_bits")
    assert {row[name] for name in fields} == {None}
    assert row["onnx_reason"].startswith("onnx: the network Branching has no ONNX form: ")
    assert row["top1_quant"] is not None
    assert row["onnx_reason"][:40] in (here / "branching" / "report.md").read_text()
    assert [path.suffix for path in (here / "branching" / "artifacts").iterdir()] == [".safetensors"] * 2


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
    assert all((here / "rivals" / row["artifact"]).stat().st_size == row["size_mb"] * 1e6 for row in dense)
    untrained = next(row for row in finished.report["rows"] if (row["config"], row["bits"]) == ("dense", 4))
    assert untrained["sha256"] not in {row["sha256"] for row in dense}


RIVALS = [("3,2,2", 8), ("3,2,2", 4), ("dense", 4), ("dense", 3)]


def test_params_are_those_of_the_plan(finished):
    params = {row["config"]: row["params"] for row in finished.report["rows"]}
    rest = 8 + (8 * 12 + 12) + 16 + (16 * 4 + 4)
    assert params["5,3,3"] == 8 * 3 * 25 + 8 * 9 + 16 * 12 * 9 + rest == finished.report["baseline"]["params"]
    assert params["3,2,2"] == 8 * 3 * 9 + 8 * 4 + 16 * 12 * 4 + rest


def test_full_orders_lose_nothing_before_training(finished):
    row = next(row for row in finished.report["rows"] if row["config"] == "5,3,3")
    assert row["top1_pre"] == finished.report["baseline"]["top1"]


def without_times(report):
    for name in ("duration_s", "stages"):
        report["run"].pop(name)
    return report


def test_the_same_command_gives_the_same_report(here):
    first = run(options(here, "once", config=("3,2,2",), qat_epochs=1))
    kept = json.loads(first.report_path.with_name("report.json").read_text())
    second = run(options(here, "once", config=("3,2,2",), qat_epochs=1, fresh=False))
    assert without_times(json.loads(second.report_path.with_name("report.json").read_text())) == without_times(kept)


def stages(report):
    return {stage["name"]: stage for stage in report["run"]["stages"]}


def test_each_network_is_trained_once_and_a_repeated_call_computes_nothing(here, tmp_path, caplog):
    grid = {"config": ("5,3,3", "3,2,2"), "cache_dir": tmp_path / "store"}
    first = run(options(here, tmp_path / "a", **grid)).report
    assert len(first["rows"]) == 8
    trained = [name for name in stages(first) if name.endswith("fine-tuning")]
    assert len(trained) == 4
    assert not any(stage["cached"] for stage in stages(first).values())
    caplog.set_level("INFO")
    second = run(options(here, tmp_path / "a", **grid)).report
    assert all(stage["cached"] for stage in stages(second).values())
    assert f"all {len(stages(second))} stages were read from the store" in caplog.text
    assert without_times(second) == without_times(first)
    assert "in the store" in plan_text(options(here, tmp_path / "a", **grid))


def test_one_more_width_computes_only_that(here, tmp_path):
    chosen = {"config": ("3,2,2",), "basis": ("cosine",), "cache_dir": tmp_path / "store"}
    run(options(here, tmp_path / "a", bits=(8,), **chosen))
    report = run(options(here, tmp_path / "a", bits=(8, 3), **chosen)).report
    made = [name for name, stage in stages(report).items() if not stage["cached"]]
    assert made == ["cosine 3,2,2, 3 bits: quantization", "artifacts: reload"]


@pytest.mark.parametrize("change", [{"fresh": True}, {"seed": 1}, {"calibration_size": 50}, {"fit": "weights"}])
def test_what_a_fit_depends_on_makes_it_anew(here, change):
    report = run(options(here, "fit-key", config=("3,2,2",), basis=("cosine",), bits=(4,), **change)).report
    run(options(here, "fit-key", config=("3,2,2",), basis=("cosine",), bits=(4,)))
    again = run(options(here, "fit-key", config=("3,2,2",), basis=("cosine",), bits=(4,), **change)).report
    key = stages(report)["cosine 3,2,2: fit"]["key"]
    assert stages(again)["cosine 3,2,2: fit"]["key"] == key
    assert stages(again)["cosine 3,2,2: fit"]["cached"] == ("fresh" not in change)


def test_a_change_in_a_users_own_code_is_noticed(here, tmp_path):
    module = "edited_net"
    keys = []
    for line in ("", "# changed\n"):
        (here / f"{module}.py").write_text((here / "tiny_net.py").read_text() + line)
        sys.modules.pop(module, None)
        report = run(options(here, tmp_path / "a", config=("3,2,2",), model=f"{module}:make", epochs=0)).report
        keys.append(stages(report)["cosine 3,2,2: fit"]["key"])
    assert keys[0] != keys[1]


def test_a_folder_that_another_run_uses_is_left_alone(here):
    (here / "used").mkdir()
    with locked(here / "used" / ".seriesquant.lock", "it", 1):
        with pytest.raises(BusyError, match=r"the output folder used is in use by process \d+"):
            run(options(here, "used", lock_timeout=0.2))
        assert [path.name for path in (here / "used").iterdir()] == [".seriesquant.lock"]


def test_another_seed_gives_another_network(here):
    digests = [
        run(options(here, f"seed{seed}", config=("3,2,2",), bits=(4,), basis=("cosine",), seed=seed)).report["rows"][0]
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
    assert rows[0]["size_mb"] - rows[1]["size_mb"] == pytest.approx(stored * 4 / 8e6, abs=1e-5)
    text = plan_text(chosen)
    for row in rows:
        said = re.search(rf"{row['bits']} bits \({row['stored_bits']} stored\).* ([\d.]+) MB", text)
        assert float(said[1]) == pytest.approx(row["size_mb"], rel=0.01, abs=0.0006)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_minifloats_train_through_their_rounding(here, rounding):
    chosen = {"config": ("3,2,2",), "basis": ("cosine",), "bits": (2,), "scheme": "minifloat", "epochs": 0}
    before, after = (
        run(options(here, f"qat{epochs}", rounding=rounding, qat_epochs=epochs, **chosen)).report["rows"][0]
        for epochs in (0, 1)
    )
    assert after["sha256"] != before["sha256"]
    assert after["reloaded_logits_max_abs_diff"] == 0


def command(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "run_pipeline.py"), *arguments],
        cwd=folder,
        env={**os.environ, "SERIESQUANT_CACHE": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


GRID = ("--config", "3,2,2", "--bits", "4", "--model", "tiny_net:make", "--data", "colours.npz", "--epochs", "1")


def test_the_command_writes_a_report_and_prints_only_the_result(here):
    done = command(here, *GRID, "--out", "command")
    assert done.returncode == 0, done.stderr
    assert "command/report.md" in done.stdout
    assert "epoch" not in done.stdout
    assert "fine-tuning" in done.stderr
    written = {path.name for path in (here / "command").iterdir()}
    assert written == {"report.md", "report.json", "options.yaml", "plots", "artifacts", ".seriesquant.lock"}


def test_a_missed_gate_exits_3_with_the_report_written(here):
    model = tiny_network()
    images = load_dataset("colours.npz").train
    train(model, images, Schedule(12, lr=0.05, batch_size=16), accelerator=make_accelerator("cpu"), seed=0)
    torch.save(model.state_dict(), "good.pt")
    rough = ("--bits", "2", "--epochs", "0", "--fit", "weights", "--rounding", "nearest", "--config", "1,1,1")
    limits = ("--max-drop", "0", "--max-size-mb", "0.001")
    done = command(here, *GRID, *rough, "--weights", "good.pt", *limits, "--out", "gate")
    assert done.returncode == 3, done.stderr
    report = read_report(here / "gate")
    gate, top1 = report["gate"], report["baseline"]["top1"]
    assert (report["status"], report["error"], report["exit_code"]) == ("done", None, 3)
    assert (gate["max_drop"], gate["max_size_mb"], gate["passed"]) == (0.0, 0.001, False)
    assert gate["failures"] == [
        f"cosine {row['config']} at 2 bits loses {top1 - row['top1_quant']:.4g} points of Top-1, "
        f"{top1 - row['top1_quant']:.4g} more than --max-drop 0 allows and takes "
        f"{row['size_mb']:g} MB, {row['size_mb'] - 0.001:.4g} more than --max-size-mb 0.001 allows"
        for row in report["rows"]
    ]
    assert f"gate missed: {gate['failures'][0]}" in done.stderr
    assert "The gate FAILED" in (here / "gate" / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("--config", "3,3"), 2, "3 stages"),
        (("--config", "6,3,3"), 2, "6"),
        (("--model", "resnet19"), 2, "resnet19"),
        (("--model", "no_such:thing"), 2, "no_such"),
        (("--data", "nowhere.npz"), 4, "nowhere.npz"),
        (("--data", "broken.npz"), 4, "broken.npz"),
        (("--weights", "nowhere.th"), 4, "nowhere.th"),
        (("--weights", "broken.npz"), 4, "broken.npz"),
        (("--bits", "9"), 2, "9"),
        (("--scheme", "float"), 2, "int, minifloat"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_its_code(here, change, code, words):
    (here / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    base = ["--config", "3,2,2", "--model", "tiny_net:make", "--data", "colours.npz", "--out", "mistake"]
    at = base.index(change[0]) if change[0] in base else len(base)
    base[at : at + 2] = change
    done = command(here, *base)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert words in done.stderr.strip().splitlines()[-1]
    assert done.stdout == ""
    assert read_report(here / "mistake")["error"]["exit_code"] == code
    assert not {"report.md", "plots", "artifacts"} & {path.name for path in (here / "mistake").iterdir()}


def test_an_unwritable_folder_is_one_sentence(here):
    (here / "file").write_text("")
    done = command(here, *GRID, "--out", "file/out")
    assert done.returncode not in (0, 3)
    assert "Traceback" not in done.stderr
