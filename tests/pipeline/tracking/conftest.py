"""A real MLflow server on the loopback address, and a run's report and files to tell it of."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.tracking import background, tracker

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PATIENCE = 600
ROW = {
    "basis": "cosine",
    "config": "3,3,2,2",
    "bits": 4,
    "stored_bits": 4,
    "scheme": "int",
    "top1_pre": 88.8,
    "top1_post": 90.86,
    "top1_quant": 90.21,
    "delta_quant": -0.65,
    "size_mb": 0.078,
    "artifact": "artifacts/cosine-3,3,2,2-4.safetensors",
    "onnx": "artifacts/cosine-3,3,2,2-4.onnx",
    "onnx_top1": None,
}
REPORT: dict[str, Any] = {
    "run": {"model": "resnet20", "seed": 7, "duration_s": 12.5},
    "baseline": {"top1": 91.73, "params": 269_722, "size_mb": 1.09, "artifact": "artifacts/baseline.safetensors"},
    "rows": [ROW, ROW | {"bits": 8, "artifact": "artifacts/cosine-3,3,2,2-8.safetensors", "onnx": None}],
    "gate": {"max_drop": 2.0, "passed": False},
}
FILES = (
    "report.md",
    "report.json",
    "plots/size.png",
    "artifacts/baseline.safetensors",
    "artifacts/cosine-3,3,2,2-4.safetensors",
    "artifacts/cosine-3,3,2,2-4.onnx",
    "artifacts/cosine-3,3,2,2-8.safetensors",
)


class Server:
    """``mlflow server`` with a SQLite store; clients send artifacts through it into a folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        words = [
            "--backend-store-uri",
            f"sqlite:///{folder}/store.db",
            "--artifacts-destination",
            str(folder / "files"),
        ]
        words += ["--serve-artifacts", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (folder / "log").open("w") as log:
            command = [sys.executable, "-m", "mlflow", "server", *words]
            names = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes that no test needs
            self._process = subprocess.Popen(
                command, cwd=folder, env=names, stdout=log, stderr=log, start_new_session=True
            )
        self._wait(folder / "log")

    def _wait(self, log: Path) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=60).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            if self._process.poll() is not None:
                break
        self.signal(signal.SIGKILL)
        pytest.fail(f"the MLflow server did not start: {log.read_text()}", pytrace=False)

    @property
    def client(self) -> "MlflowClient":
        """MLflow's own client of this server."""
        from mlflow.tracking import MlflowClient  # here, so that only the process with these tests imports MLflow

        return MlflowClient(self.uri)

    def artifact(self, run_id: str, name: str, folder: Path) -> Path:
        """Download an artifact of a run, or all of them, into a folder."""
        from mlflow import artifacts

        words = {"artifact_path": name} if name else {}
        return Path(artifacts.download_artifacts(run_id=run_id, dst_path=folder, tracking_uri=self.uri, **words))

    def runs(self, experiment: str) -> "list[Run]":
        """The runs of an experiment, none where there is no such experiment."""
        found = self.client.get_experiment_by_name(experiment)
        return [] if found is None else list(self.client.search_runs([found.experiment_id]))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers, which are a group of their own."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy may take longer for its own part than a run waits for a tracker."""
    for name in ("REACH_SECONDS", "LOAD_SECONDS", "SILENT_SECONDS"):
        monkeypatch.setattr(background, name, float(PATIENCE))
    monkeypatch.setattr(tracker, "KILLED_SECONDS", float(PATIENCE))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that the tests share."""
    running = Server(tmp_path_factory.mktemp("mlflow"))
    yield running
    running.kill()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """An output folder with the files that ``REPORT`` names, and one of an earlier run."""
    for number, name in enumerate((*FILES, "artifacts/earlier.safetensors")):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode().ljust(1000 * (number + 1)))
    return tmp_path / "out"


def free_port() -> int:
    """Return an unused port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something has happened."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"it did not happen within {PATIENCE} s"
        time.sleep(0.2)
