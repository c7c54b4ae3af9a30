"""The pipeline as a library: it leaves the process as it was, and threads do not disturb each other."""

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import Options, load, run
from pipeline.errors import OptionsError
from tests.support.networks import write_module, write_npz
from tests.support.report_schema import mistakes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with data and networks, which is the current folder."""
    write_npz(tmp_path / "colours.npz")
    write_module(tmp_path)
    source = (tmp_path / "tiny_net.py").read_text()
    dropping = source.replace("nn.Flatten(),", "nn.Flatten(), nn.Dropout(0.3),")
    (tmp_path / "dropping_net.py").write_text(dropping)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(name: str, **changes: object) -> Options:
    usual = {"bits": 4, "data": "colours.npz", "epochs": 2, "workers": 0}
    return Options(**(usual | changes), out=name)


RUNS = {
    "one": {"config": "3,2,2", "model": "dropping_net:make", "seed": 1, "qat_epochs": 1},
    "two": {"config": "5,2,3", "model": "dropping_net:make", "seed": 2, "basis": "chebyshev", "distill": False},
}


def test_runs_in_two_threads_give_what_they_give_alone(here, monkeypatch) -> None:
    monkeypatch.setenv("SERIESQUANT_CACHE", str(here / "alone"))
    alone = {name: run(options(f"alone-{name}", **chosen)).report for name, chosen in RUNS.items()}
    monkeypatch.setenv("SERIESQUANT_CACHE", str(here / "together"))
    together: dict[str, dict] = {}
    begin = threading.Barrier(len(RUNS))

    def work(name: str) -> None:
        begin.wait(600)
        together[name] = run(options(f"together-{name}", **RUNS[name])).report

    threads = [threading.Thread(target=work, args=(name,)) for name in RUNS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    for name, report in alone.items():
        assert [untimed(row) for row in together[name]["rows"]] == [untimed(row) for row in report["rows"]]
        assert together[name]["baseline"] == report["baseline"]
        assert together[name]["layers"] == report["layers"]


def untimed(row: dict) -> dict:
    return {key: value for key, value in row.items() if not key.endswith(("finetune_s", "qat_s", "_ms"))}


AS_A_LIBRARY = """
import logging, os, random, signal, sys, threading, warnings
import numpy, torch

def state():
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "handlers": (logging.root.handlers[:], logging.root.level, logging.getLogger("pipeline").handlers[:]),
        "levels": [logging.getLogger(name).level for name in ("pipeline", "basis", "quant", "reports")],
        "torch": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
                  torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
                  torch.backends.cudnn.benchmark, torch.get_rng_state().tolist()),
        "random": (random.getstate(), numpy.random.get_state()[1].tolist()),
        "process": (os.getcwd(), sys.excepthook, threading.excepthook, sys.stdout, sys.stderr, sys.argv[:]),
        "warnings": warnings.showwarning,
    }

sys.path.insert(0, sys.argv[1])
sys.path.append(os.getcwd())
before = state()
from pipeline import Options, load, run
from pipeline.errors import OptionsError
result = run(Options(config="3,2,2", bits=4, model="dropping_net:make", data="colours.npz", epochs=1, out="library"))
try:
    run(Options(config="3,2,2", bits=4, model="dropping_net:make", data="nowhere.npz", out="failed"))
except ValueError as error:
    print("raised", type(error).__name__)
after = state()
print("changed", [name for name in before if before[name] != after[name]])
print("code", result.exit_code, result.report_path)
"""


def test_a_process_that_imports_and_runs_it_stays_as_it_was(here) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_A_LIBRARY, str(ROOT)],
        env={**os.environ, "SERIESQUANT_CACHE": str(here / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "raised DataError\nchanged []\ncode 0 library/report.md\n"
    assert "baseline" not in done.stderr


def test_the_worked_example_of_the_documents_runs(here, monkeypatch, capsys) -> None:
    """It has a smaller network and fewer images here, for the time that they take."""
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8").partition("\n## A whole run\n")[2]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program, count = re.subn(r"limit_train=\d+", "limit_train=16, limit_test=16", "\n".join(blocks))
    assert count == 2
    program = program.replace('config="3,3,2,2"', 'config="3,2,2", model="tiny_net:make"')
    program = program.replace('model="resnet20"', 'model="tiny_net:make"')
    program = program.replace('["artifact"])', '["artifact"], allow_import=True)')
    assert (program.count('model="tiny_net:make"'), program.count("allow_import")) == (3, 1)
    monkeypatch.setenv("SERIESQUANT_CACHE", str(here / "cache"))
    exec(program, {"__name__": "__main__"})
    out, _ = capsys.readouterr()
    assert re.search(r"^cosine 3,2,2 at 4 bits: Top-1 \d+\.\d\d, \d\.\d{3} MB$", out, re.MULTILINE)
    assert "failed: DataError" in out


def test_a_report_in_memory_keeps_to_the_schema(here, monkeypatch) -> None:
    import json

    monkeypatch.setenv("SERIESQUANT_CACHE", str(here / "cache"))
    result = run(options("memory", config="dense", model="tiny_net:make", epochs=0))
    assert mistakes(json.loads(json.dumps(result.report))) == []


@pytest.mark.parametrize("value", [None, {"config": "3,3,2,2"}, "--config 3,3,2,2", Options])
def test_a_run_takes_options_alone(value, here):
    with pytest.raises(OptionsError, match=r"^run: .*allowed: Options"):
        run(value)


@pytest.mark.parametrize("value", [3, True, object(), dict])
def test_progress_is_checked_before_any_work(value, here):
    with pytest.raises(OptionsError, match=r"^progress: .*allowed: .*stage and track"):
        run(options("nothing", config="3,2,2", model="dropping_net:make"), value)
    assert not (here / "nothing").exists()


@pytest.mark.parametrize("value", [b"content", io.BytesIO(b"content"), None, 3, ["a.safetensors"]])
def test_an_artifact_is_loaded_from_a_path_alone(value):
    with pytest.raises(OptionsError, match=r"^artifact: .*allowed: .*path"):
        load(value)
