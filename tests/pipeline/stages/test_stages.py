"""The stages that whole runs compute, and the stages that they read from the store."""

import os
import sys

import pytest

from pipeline.errors import BusyError
from pipeline.runner import run
from pipeline.runtime.locks import locked
from pipeline.stages.dry_run import plan_text
from tests.support.runs import options, without_times


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
    assert f"all {len(stages(second))} stages" in caplog.text
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
    chosen = {"config": ("3,2,2",), "basis": ("cosine",), "bits": (4,), "epochs": 0}
    report = run(options(here, "fit-key", **chosen, **change)).report
    run(options(here, "fit-key", **chosen))
    again = run(options(here, "fit-key", **chosen, **change)).report
    key = stages(report)["cosine 3,2,2: fit"]["key"]
    assert stages(again)["cosine 3,2,2: fit"]["key"] == key
    assert stages(again)["cosine 3,2,2: fit"]["cached"] == ("fresh" not in change)


def test_a_change_in_a_users_own_code_is_noticed(here, tmp_path):
    module = "edited_net"
    keys = []
    for line in ("", "# changed\n"):
        (here / f"{module}.py").write_text((here / "tiny_net.py").read_text() + line)
        sys.modules.pop(module, None)
        chosen = {"config": ("3,2,2",), "basis": ("cosine",), "bits": (4,), "epochs": 0}
        report = run(options(here, tmp_path / "a", model=f"{module}:make", **chosen)).report
        keys.append(stages(report)["cosine 3,2,2: fit"]["key"])
    assert keys[0] != keys[1]


def test_a_folder_that_another_run_uses_is_left_alone(here):
    (here / "used").mkdir()
    with locked(here / "used" / ".seriesquant.lock", "it", 1):
        with pytest.raises(BusyError, match=rf"output folder used .*{os.getpid()}"):
            run(options(here, "used", lock_timeout=0.2))
        assert [path.name for path in (here / "used").iterdir()] == [".seriesquant.lock"]
