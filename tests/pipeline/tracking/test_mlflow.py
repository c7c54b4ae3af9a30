"""The run on a real MLflow server, read back with MLflow's own client."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.options.options import Options
from pipeline.tracking import Tracker, background, tracking
from pipeline.tracking.background import Destination
from pipeline.tracking.tracker import Trackers, destinations
from pipeline.training.state import EpochFigures, TrainingLabel
from tests.pipeline.tracking.conftest import FILES, PATIENCE, REPORT, Server, wait_for

ROOT = Path(__file__).parents[3]
LABEL = TrainingLabel("cosine 3,3,2,2", "finetune")


def options(server: Server, experiment: str, **more: object) -> Options:
    given = {"config": ["3,3,2,2", "dense"], "track": "mlflow", "tracking_uri": server.uri, "experiment": experiment}
    return Options(**(given | more))


def train(tracker: Tracker, epochs: int = 3) -> None:
    for epoch in range(1, epochs + 1):
        tracker.epoch(LABEL, EpochFigures(epoch=epoch, loss=1 / epoch, lr=0.02 / epoch))


def destination(server: Server, experiment: str) -> Destination:
    return destinations(options(server, experiment))[0]


def test_a_run_is_all_there(server, finished, tmp_path, caplog, monkeypatch) -> None:
    """Also as the main one of several processes, whose launcher's variables would make accelerate wait for the rest."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    before = dict(os.environ)
    caplog.set_level("INFO", "pipeline")
    with tracking(options(server, "whole", out=finished, seed=7)) as tracker:
        train(tracker)
        tracker.finish(REPORT, finished)
    assert dict(os.environ) == before

    (run,) = server.runs("whole")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "out")
    page = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert sorted(caplog.messages) == [  # a run as short as this one may be over before its tracker has begun
        f"mlflow at {server.uri}: this run is {page}",
        f"tracking: {len(FILES)} files and the final figures",
    ]
    assert run.data.params["config"] == "3,3,2,2 dense"
    assert (run.data.params["bits"], run.data.params["seed"], run.data.params["distill"]) == ("8,4", "7", "True")
    assert not {"track", "tracking_uri", "experiment"} & set(run.data.params)
    for name, expected in {"loss": [1, 1 / 2, 1 / 3], "lr": [0.02, 0.01, 0.02 / 3]}.items():
        curve = server.client.get_metric_history(run.info.run_id, f"cosine-3.3.2.2/finetune/{name}")
        assert [(point.step, point.value) for point in curve] == list(enumerate(expected, start=1))
    metrics = run.data.metrics
    assert (metrics["baseline/top1"], metrics["gate/passed"], metrics["run/duration_s"]) == (91.73, 0, 12.5)
    for bits in (4, 8):
        row = {field: metrics[f"cosine-3.3.2.2-{bits}/{field}"] for field in ("top1_quant", "delta_quant", "size_mb")}
        assert row == {"top1_quant": 90.21, "delta_quant": -0.65, "size_mb": 0.078}
    got = server.artifact(run.info.run_id, "", tmp_path)
    there = {path.relative_to(got).as_posix(): path.read_bytes() for path in got.rglob("*") if path.is_file()}
    assert {name: (finished / name).read_bytes() for name in FILES} == {
        name: content for name, content in there.items() if not name.startswith("out/")
    }


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_early_says_how(server, error, status) -> None:
    with pytest.raises(error), tracking(options(server, status)) as tracker:  # noqa: PT012
        train(tracker, 1)
        if error is KeyboardInterrupt:  # it waits for less than the tracker takes to begin
            wait_for(lambda: server.runs(status))
        raise error
    (run,) = server.runs(status)
    assert run.info.status == status
    assert run.data.metrics["cosine-3.3.2.2/finetune/loss"] == 1


def test_an_experiment_that_another_run_creates_meanwhile(server) -> None:
    server.client.create_experiment("contested")
    code = (
        "import mlflow; from mlflow.store.tracking.rest_store import RestStore\n"
        "from pipeline.tracking import backends\n"
        "backends.EXPERIMENT = 'contested'; backend = backends.MLflow(mlflow.get_tracking_uri()); backend.load()\n"
        "find, seen = RestStore.get_experiment_by_name, [None]\n"
        "RestStore.get_experiment_by_name = lambda store, name: seen.pop() if seen else find(store, name)\n"
        "backend.start('late', {}); assert not seen; backend.end('FINISHED')"
    )
    names = os.environ | {"MLFLOW_TRACKING_URI": server.uri}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=names, check=True, timeout=PATIENCE)
    assert [run.info.status for run in server.runs("contested")] == ["FINISHED"]


def test_a_run_that_the_environment_names_is_continued(server) -> None:
    experiment = server.client.create_experiment("jobs")
    job = server.client.create_run(experiment).info.run_id
    names = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_RUN_ID": job}
    tracker = Trackers([Destination("mlflow", server.uri, names)])
    tracker.start("compress", {"config": "3,3,2,2"})
    train(tracker)
    tracker.finish(REPORT, Path())
    (run,) = server.runs("jobs")
    assert (run.info.run_id, run.info.status) == (job, "FINISHED")
    assert run.data.params == {"config": "3,3,2,2"}
    assert run.data.metrics["cosine-3.3.2.2/finetune/loss"] == pytest.approx(1 / 3)


def test_nothing_is_said_after_the_end(server, finished) -> None:
    with pytest.raises(ValueError, match="afterwards"), tracking(options(server, "after")) as tracker:  # noqa: PT012
        tracker.finish(REPORT, finished)
        raise ValueError("afterwards")
    assert [run.info.status for run in server.runs("after")] == ["FINISHED"]


def test_a_run_that_is_killed_at_once_is_marked_as_killed(server) -> None:
    code = (
        "import sys, time; from tests.pipeline.tracking.test_mlflow import *\n"
        "tracker = Trackers([Destination('mlflow', sys.argv[1], {'MLFLOW_TRACKING_URI': sys.argv[1], "
        "'MLFLOW_EXPERIMENT_NAME': 'sigkill'})]); tracker.start('gone', {}); train(tracker); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.uri], cwd=ROOT)
    wait_for(lambda: any(run.data.metrics for run in server.runs("sigkill")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: server.runs("sigkill")[0].info.status != "RUNNING")
    assert [run.info.status for run in server.runs("sigkill")] == ["KILLED"]


def test_two_runs_in_two_threads_keep_apart(server, finished, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # a store without a server keeps files in the working folder
    store = f"sqlite:///{tmp_path}/own.db"

    def run(uri: str, name: str) -> None:
        with tracking(options(server, name, tracking_uri=uri, out=finished)) as tracker:
            train(tracker)
            tracker.finish(REPORT | {"rows": []}, finished)

    threads = [threading.Thread(target=run, args=pair) for pair in ((server.uri, "first"), (store, "second"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(server.runs(name)) for name in ("first", "second")] == [1, 0]
    from mlflow.tracking import MlflowClient

    own = MlflowClient(store)
    (local,) = own.search_runs([own.get_experiment_by_name("second").experiment_id])
    assert (local.info.status, local.data.metrics["baseline/top1"]) == ("FINISHED", 91.73)


def test_a_slow_upload_is_not_given_up(server, finished, monkeypatch, caplog) -> None:
    monkeypatch.setattr(background, "SILENT_SECONDS", 4.0)
    (finished / "artifacts/baseline.safetensors").write_bytes(os.urandom(12_000_000))
    with _SlowProxy(server.port, bytes_per_second=1_500_000) as port:
        uri = f"http://127.0.0.1:{port}"
        tracker = Trackers([Destination("mlflow", uri, {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "slow"})])
        tracker.start("slow", {})
        wait_for(lambda: server.runs("slow"))
        started = time.monotonic()
        tracker.finish(REPORT | {"rows": []}, finished)
        assert time.monotonic() - started > 1.5 * background.SILENT_SECONDS
    assert caplog.messages == []
    (run,) = server.runs("slow")
    assert run.info.status == "FINISHED"
    (artifact,) = server.client.list_artifacts(run.info.run_id, "artifacts")
    assert artifact.file_size == 12_000_000


def test_what_the_server_refuses_is_a_warning_and_the_rest_is_left_out(server, finished, caplog, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.tracking.figures.shortened", str)  # a name that is too long
    with tracking(options(server, "refused", out=finished)) as tracker:
        tracker.epoch(TrainingLabel("x" * 300, "finetune"), EpochFigures(epoch=1, loss=1.0, lr=0.1))
        tracker.finish(REPORT, finished)
    (warning,) = caplog.messages
    assert warning.startswith(f"tracking with mlflow at {server.uri}: ")
    assert warning.endswith("; the run goes on without it")
    (run,) = server.runs("refused")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {})


class _SlowProxy:
    """Passes connections on to a port, what the client sends at a limited rate."""

    def __init__(self, port: int, bytes_per_second: int) -> None:
        self._port, self._rate = port, bytes_per_second

    def __enter__(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self._listener.getsockname()[1]

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
            far = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pass_on, args=(near, far, self._rate), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, None), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, rate: int | None) -> None:
        with contextlib.suppress(OSError):  # one side is gone
            while block := source.recv(32_768):
                if rate:
                    time.sleep(len(block) / rate)
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
