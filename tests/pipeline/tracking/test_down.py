"""A tracker that is down delays a run by less than 10 s, fails nothing, and is one warning."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.options.options import Options
from pipeline.tracking import background, tracking
from pipeline.tracking.backends import check_reachable
from pipeline.tracking.background import hide_password
from pipeline.training.state import EpochFigures, TrainingLabel
from tests.pipeline.tracking.conftest import REPORT, Server, free_port, wait_for

MOST_SECONDS = 10.0
ROOT = Path(__file__).parents[3]


def track(uri: str, finished: Path, *, before_the_end=lambda: None) -> float:
    """A run of a few epochs; returns the seconds that its tracker took from it."""
    options = Options(config="3,3,2,2", track="mlflow", tracking_uri=uri, experiment="down", out=finished)
    started, paused = time.monotonic(), 0.0
    with tracking(options) as tracker:
        for epoch in range(1, 4):
            tracker.epoch(TrainingLabel("cosine 3,3,2,2", "finetune"), EpochFigures(epoch=epoch, loss=1.0, lr=0.1))
        pause = time.monotonic()
        before_the_end()
        paused = time.monotonic() - pause
        tracker.finish(REPORT, finished)
    return time.monotonic() - started - paused


def warning(uri: str, reason: str) -> str:
    return f"tracking with mlflow at {uri}: {reason}; the run goes on without it"


def test_a_port_where_nobody_listens(finished, caplog) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert track(uri, finished) < MOST_SECONDS
    assert caplog.messages == [warning(uri, "Connection refused")]


def test_a_name_that_does_not_exist(finished, caplog) -> None:
    assert track("http://tracking.invalid:5000", finished) < MOST_SECONDS
    (message,) = caplog.messages
    assert message.startswith("tracking with mlflow at http://tracking.invalid:5000: ")
    assert message.endswith("; the run goes on without it")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_never_answers(silent, finished, caplog) -> None:
    seconds = track(silent, finished)
    assert 7 < seconds < MOST_SECONDS
    assert caplog.messages == [warning(silent, "no answer within 8 s")]


def test_a_run_that_is_long_enough_does_not_wait_for_it(silent, finished, caplog) -> None:
    assert track(silent, finished, before_the_end=lambda: time.sleep(8)) < 2
    assert caplog.messages == [warning(silent, "no answer within 8 s")]


def test_a_run_that_is_told_to_end_waits_less(silent) -> None:
    options = Options(config="3,3,2,2", track="mlflow", tracking_uri=silent)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), tracking(options):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5


def test_the_process_of_the_run_can_end_without_its_tracker(silent) -> None:
    code = (
        "import sys; from pipeline.tracking.background import Target; from pipeline.tracking.tracker import Trackers\n"
        "Trackers([Target('mlflow', sys.argv[1])]).start('left alone', {})"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, silent], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < MOST_SECONDS
    assert (done.stdout, done.stderr) == ("", "")


def test_a_server_that_stops_answering_in_the_middle(server: Server, finished, caplog) -> None:
    def freeze() -> None:
        wait_for(lambda: any(run.data.metrics for run in server.runs("down")))
        server.signal(signal.SIGSTOP)

    try:
        assert track(server.uri, finished, before_the_end=freeze) < MOST_SECONDS
    finally:
        server.signal(signal.SIGCONT)
    assert caplog.messages == [warning(server.uri, "no answer within 8 s")]


def test_a_server_that_is_killed_in_the_middle(tmp_path_factory, finished, caplog) -> None:
    own = Server(tmp_path_factory.mktemp("killed"))

    def kill() -> None:
        wait_for(lambda: any(run.data.metrics for run in own.runs("down")))
        own.kill()

    assert track(own.uri, finished, before_the_end=kill) < MOST_SECONDS
    assert caplog.messages == [warning(own.uri, "no answer within 8 s")]


def test_a_process_that_cannot_be_started(finished, caplog, monkeypatch) -> None:
    monkeypatch.setattr(background.sys, "executable", "/absent/python")
    assert track("http://127.0.0.1:9", finished) < MOST_SECONDS
    (message,) = caplog.messages
    assert "No such file or directory: '/absent/python'; the run goes on without it" in message


def test_a_process_that_dies(finished, caplog, monkeypatch) -> None:
    monkeypatch.setattr(background, "_CODE", "import os; os.abort()")
    assert track("http://127.0.0.1:9", finished) < MOST_SECONDS
    assert caplog.messages == [warning("http://127.0.0.1:9", "its process ended unexpectedly")]


def test_any_answer_is_an_answer(server: Server) -> None:
    check_reachable(server.uri)
    check_reachable(f"{server.uri}/there/is/nothing/here")


def test_what_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(OSError, match="not HTTP"):
            check_reachable(f"http://127.0.0.1:{port}")


def test_messages_hide_passwords() -> None:
    assert hide_password("http://me:secret@host:5000/x is down") == "http://host:5000/x is down"
