"""A tracker that is down delays a run by a limited time, fails nothing, and is one warning."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.options.options import Options
from pipeline.tracking import background, tracking
from pipeline.tracking.backends import check_reachable
from pipeline.tracking.background import hide_password
from pipeline.training.state import EpochFigures, TrainingLabel
from tests.pipeline.tracking.conftest import PATIENCE, REPORT, Server, free_port, wait_for

ROOT = Path(__file__).parents[3]


def track(uri: str, finished: Path, *, before_the_end=lambda: None) -> None:
    """A run of a few epochs."""
    options = Options(config="3,3,2,2", track="mlflow", tracking_uri=uri, experiment="down", out=finished)
    with tracking(options) as tracker:
        for epoch in range(1, 4):
            tracker.epoch(TrainingLabel("cosine 3,3,2,2", "finetune"), EpochFigures(epoch=epoch, loss=1.0, lr=0.1))
        before_the_end()
        tracker.finish(REPORT, finished)


def warning(uri: str, reason: str) -> str:
    return f"tracking with mlflow at {uri}: {reason}; the run goes on without it"


@pytest.fixture
def impatient(monkeypatch) -> None:
    """A run waits for a silent tracker for two seconds, because no test needs to wait longer."""
    monkeypatch.setattr(background, "SILENT_SECONDS", 2.0)


def test_a_run_waits_less_than_ten_seconds() -> None:
    limits = subprocess.run([sys.executable, "-c", LIMITS], cwd=ROOT, capture_output=True, text=True, check=True)
    silent, killed = map(float, limits.stdout.split())
    assert 0 < killed < silent < 10


LIMITS = (
    "from pipeline.tracking.background import SILENT_SECONDS; from pipeline.tracking.tracker import KILLED_SECONDS\n"
    "print(SILENT_SECONDS, KILLED_SECONDS)"
)


def test_a_port_where_nobody_listens(finished, caplog) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    track(uri, finished)
    assert caplog.messages == [warning(uri, "Connection refused")]


def test_a_name_that_does_not_exist(finished, caplog) -> None:
    track("http://tracking.invalid:5000", finished)
    (message,) = caplog.messages
    assert message.startswith("tracking with mlflow at http://tracking.invalid:5000: ")
    assert message.endswith("; the run goes on without it")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_answers(silent, finished, caplog) -> None:
    started = time.monotonic()
    track(silent, finished)
    assert time.monotonic() - started > background.SILENT_SECONDS
    assert caplog.messages == [warning(silent, "no answer within 2 s")]


def test_a_run_that_is_long_enough_does_not_wait_for_it(silent, finished, caplog, monkeypatch) -> None:
    """The run's clock jumps; where the run waited all the same, this test would take as long as it jumps."""
    passed = [0.0]
    monkeypatch.setattr(background, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    monkeypatch.setattr(background, "SILENT_SECONDS", 3600.0)
    monkeypatch.setattr(background, "REACH_SECONDS", 7200.0)  # the first request has the same clock
    track(silent, finished, before_the_end=lambda: passed.append(passed.pop() + 3601.0))
    assert caplog.messages == [warning(silent, "no answer within 3600 s")]


def test_a_run_that_is_told_to_end_waits_less(silent, caplog, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.tracking.tracker.KILLED_SECONDS", 1.0)
    options = Options(config="3,3,2,2", track="mlflow", tracking_uri=silent)
    with pytest.raises(KeyboardInterrupt), tracking(options):
        raise KeyboardInterrupt
    assert caplog.messages == [warning(silent, "no answer within 1 s")]


def test_the_process_of_the_run_can_end_without_its_tracker(silent) -> None:
    code = (
        "import sys; from pipeline.tracking.background import Destination\n"
        "from pipeline.tracking.tracker import Trackers\n"
        "Trackers([Destination('mlflow', sys.argv[1])]).start('left alone', {})"
    )
    command = [sys.executable, "-c", code, silent]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stops_answering_in_the_middle(server: Server, finished, caplog) -> None:
    def freeze() -> None:
        wait_for(lambda: any(run.data.metrics for run in server.runs("down")))
        server.signal(signal.SIGSTOP)

    try:
        track(server.uri, finished, before_the_end=freeze)
    finally:
        server.signal(signal.SIGCONT)
    assert caplog.messages == [warning(server.uri, "no answer within 2 s")]


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_killed_in_the_middle(tmp_path_factory, finished, caplog) -> None:
    own = Server(tmp_path_factory.mktemp("killed"))

    def kill() -> None:
        wait_for(lambda: any(run.data.metrics for run in own.runs("down")))
        own.kill()

    track(own.uri, finished, before_the_end=kill)
    assert caplog.messages == [warning(own.uri, "no answer within 2 s")]


def test_a_process_that_cannot_be_started(finished, caplog, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/absent/python")
    track("http://127.0.0.1:9", finished)
    (message,) = caplog.messages
    assert "No such file or directory: '/absent/python'; the run goes on without it" in message


def test_a_process_that_dies(finished, caplog, monkeypatch) -> None:
    monkeypatch.setattr(background, "child_command", lambda *_: [sys.executable, "-c", "import os; os.abort()"])
    track("http://127.0.0.1:9", finished)
    assert caplog.messages == [warning("http://127.0.0.1:9", "its process ended unexpectedly")]


def test_any_answer_is_an_answer() -> None:
    asked = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server calls it
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        for path in ("", "/there/is/nothing/here"):
            check_reachable(f"http://127.0.0.1:{refusing.server_port}{path}")
        refusing.shutdown()
    assert len(asked) == 2


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
