"""What becomes of a task that Ray gives up, and of what workers say."""

import signal

import pytest
import ray
import ray.exceptions

from pipeline.errors import ClusterError, OptionsError
from pipeline.executors import executor, ray_executor
from pipeline.executors.ray_executor import Board
from pipeline.executors.worker import LineStream
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.options.orders import parse_config
from pipeline.runtime.signals import Interruption

VARIANT = Variant(parse_config("3,2,2"), ("cosine",), (4,), 1)


def test_a_task_that_loses_every_worker_is_an_error_that_names_it(monkeypatch):
    def get(reference):
        raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(ray_executor.ray, "get", get)
    with pytest.raises(
        ClusterError, match=r"--executor: cosine 3,2,2 was lost with its worker 4 times: The worker died"
    ):
        ray_executor._result(None, VARIANT)


@pytest.mark.parametrize("error", [SystemExit(15), Exception("The current node timed out"), ConnectionError("none")])
def test_a_cluster_that_does_not_start_is_one_sentence(monkeypatch, error):
    def init(*words, **options):
        raise error

    monkeypatch.setattr(ray_executor.ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    opened = executor(Options(config="3,3,3,2", executor="ray"), Interruption())
    with pytest.raises(
        ClusterError, match=r"--executor: the Ray cluster local cannot be used: .*; allowed: one that runs"
    ):
        opened.__enter__()
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_of_a_launcher_have_no_cluster(monkeypatch):
    places = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        OptionsError, match="--executor: got ray in 2 processes that a launcher started; allowed: local"
    ):
        executor(Options(config="3,3,3,2", executor="ray"), Interruption())


def test_the_board_gives_each_line_once():
    board = Board()
    board.say("one")
    board.say("two")
    assert (board.take(), board.take()) == (["one", "two"], [])


def test_a_stream_hands_on_whole_lines():
    lines = []
    stream = LineStream(lines.append)
    print("one", 2, file=stream, flush=True)
    stream.write("th")
    stream.write("ree\nfo")
    assert lines == ["one 2", "three"]
