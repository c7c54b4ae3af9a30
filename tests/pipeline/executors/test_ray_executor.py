"""Errors of a cluster and of its tasks, and the log lines of workers."""

import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.exceptions

from pipeline.errors import ClusterError, OptionsError
from pipeline.executors import executor, ray_executor
from pipeline.executors.ray_executor import fetch_result, log_lines
from pipeline.executors.worker import LineWriter
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.options.orders import parse_config
from pipeline.runtime.forwarding import LineBoard
from pipeline.runtime.signals import Interruption

ROOT = Path(__file__).parents[3]
VARIANT = Variant(parse_config("3,2,2"), ("cosine",), (4,), 1)


def test_a_task_that_loses_every_worker_is_an_error_that_names_it():
    def get(reference):
        raise ray.exceptions.WorkerCrashedError

    with pytest.raises(ClusterError, match=r"--executor.* cosine 3,2,2 .*\b4\b"):
        fetch_result(None, VARIANT.name, get)


def test_an_error_of_a_task_keeps_the_traceback_of_its_worker():
    def get(reference):
        try:
            int("no number")
        except ValueError as error:
            text = traceback.format_exc() + "in the worker"
            raise ray.exceptions.RayTaskError("task", text, error).as_instanceof_cause() from None

    with pytest.raises(ValueError, match="no number") as caught:
        fetch_result(None, VARIANT.name, get)
    assert type(caught.value) is ValueError
    shown = "".join(traceback.format_exception(caught.value))
    assert 'int("no number")' in shown
    assert "in the worker" in shown


def test_ray_is_imported_only_by_its_executor():
    code = "import sys, pipeline.runner; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("error", [SystemExit(15), Exception("The current node timed out"), ConnectionError("none")])
def test_a_cluster_that_does_not_start_is_one_sentence(monkeypatch, error):
    def init(*words, **options):
        raise error

    monkeypatch.setattr(ray_executor.ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    opened = executor(Options(config="3,3,3,2", executor="ray"), Interruption())
    with pytest.raises(ClusterError, match=r"--executor.* cluster local .*allowed.*--executor local"):
        opened.__enter__()
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_of_a_launcher_have_no_cluster(monkeypatch):
    places = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionsError, match=r"--executor.* ray .*\b2\b.*allowed: local"):
        executor(Options(config="3,3,3,2", executor="ray"), Interruption())


def test_the_process_of_the_board_needs_no_pytorch():
    code = f"import sys, {LineBoard.__module__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_board_gives_each_line_once():
    board = LineBoard()
    board.append("one")
    board.append("two")
    assert (board.drain(), board.drain()) == (["one", "two"], [])


def test_a_stop_request_ends_the_wait_for_a_board_that_does_not_answer(monkeypatch):
    """Ray turns an exception that a signal handler raises within ``ray.get`` into an internal error."""
    waits = []
    interruption = Interruption()

    def wait(references, timeout):
        waits.append(timeout)
        if len(waits) == 2:
            interruption.request()
        return [], references

    monkeypatch.setattr(ray_executor.ray, "wait", wait)
    board = SimpleNamespace(drain=SimpleNamespace(remote=object))
    with pytest.raises(KeyboardInterrupt):
        log_lines(board, SimpleNamespace(interruption=interruption))
    assert len(waits) == 2
    assert max(waits) < 1


def test_a_writer_logs_complete_lines():
    lines = []
    stream = LineWriter(lines.append)
    print("one", 2, file=stream, flush=True)
    stream.write("th")
    stream.write("ree\nfo")
    assert lines == ["one 2", "three"]
