"""Log to MLflow, and to TensorBoard by accelerate's tracker; runs only in the tracker's own process.

A backend is one class here and one entry in ``pipeline.options.registry.TRACKERS``.
"""

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

from pipeline.runtime.imports import import_libraries
from pipeline.tracking.background import Destination

if TYPE_CHECKING:
    from accelerate.tracking import TensorBoardTracker

    from pipeline.options.options import Options

EXPERIMENT: Final = "seriesquant"
FINISHED: Final = "FINISHED"
SECONDS: Final = 30.0
"""Time limit for the first answer of a server."""
_LAUNCHERS = ("ACCELERATE_", "TORCHELASTIC_", "PMI_", "OMPI_", "MV2_")
_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


class Backend(Protocol):
    """A tracker.

    The run calls ``destination`` of the class. The tracker's process creates the object from the ``place`` of this
    destination, its only argument, and handles the other methods as requests in this order; ``log`` and ``file`` any
    number of times. Any exception of a request becomes one warning, and the run continues.
    """

    @staticmethod
    def destination(options: "Options") -> Destination:
        """Return the name in ``TRACKERS``, and the place where the tracker stores the data of a run."""

    def reach(self) -> None:
        """Raise an error if the tracker cannot be reached."""

    def load(self) -> None:
        """Import the libraries, which takes seconds on this machine."""

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Start a run and return its page, id or folder."""

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Log metrics of an epoch (``step``) or of the whole run."""

    def file(self, path: str, folder: str) -> None:
        """Store a copy of a file in a folder of the run."""

    def end(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""


class MLflow:
    """An MLflow server, or a store that MLflow's client writes itself (SQLite, a folder, Databricks).

    Args:
        place: The tracking URI; empty for MLflow's own default.
    """

    def __init__(self, place: str) -> None:
        self._place = place

    @staticmethod
    def destination(options: "Options") -> Destination:
        """Return the tracker of a run: the URI of its options, or else of the environment."""
        given = {"MLFLOW_TRACKING_URI": options.tracking_uri, "MLFLOW_EXPERIMENT_NAME": options.experiment}
        place = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        return Destination("mlflow", place, {name: value for name, value in given.items() if value})

    def reach(self) -> None:
        """Check that a server answers.

        Raises:
            OSError: The server does not answer.
        """
        if self._is_server:
            check_reachable(self._place)

    @property
    def _is_server(self) -> bool:
        return self._place.startswith(("http://", "https://"))

    def load(self) -> None:
        """Import MLflow, and create a store that is on this machine."""
        import_libraries("mlflow")
        import mlflow

        if "://" not in self._place or self._place.startswith(("file:", "sqlite:")):
            mlflow.search_experiments(max_results=1)

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Start a run in the experiment that the environment names, or in ``EXPERIMENT``; or continue MLFLOW_RUN_ID."""
        import mlflow

        if os.environ.get("MLFLOW_RUN_ID"):  # MLflow reads it, and the run has its own experiment
            experiment = None
        else:
            experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)).experiment_id
        run = mlflow.start_run(run_name=name, experiment_id=experiment).info
        mlflow.log_params(parameters)
        page = f"{self._place.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
        return page if self._is_server else str(run.run_id)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Log metrics."""
        import mlflow

        mlflow.log_metrics(values, step=step)

    def file(self, path: str, folder: str) -> None:
        """Upload an artifact."""
        import mlflow

        mlflow.log_artifact(path, folder or None)

    def end(self, status: str) -> None:
        """End the run."""
        import mlflow

        mlflow.end_run(status)


class TensorBoard:
    """Event files in a new subfolder for each run.

    Args:
        place: The folder.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._tracker: TensorBoardTracker

    @staticmethod
    def destination(options: "Options") -> Destination:
        """Return the tracker of a run: a folder in its output folder."""
        return Destination("tensorboard", str((options.out / "tensorboard").resolve()))

    def reach(self) -> None:
        """Do nothing: ``start`` creates the folder."""

    def load(self) -> None:
        """Import the writer of event files."""
        _leave_process_group()
        import_libraries("torch.utils.tensorboard", "accelerate.tracking")

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Start a run, named by date and time, so that repeated runs into one folder stay separate."""
        from accelerate.tracking import TensorBoardTracker

        self._tracker = TensorBoardTracker(time.strftime("%Y%m%d-%H%M%S"), self._place)
        self._tracker.start()
        self._tracker.store_init_configuration({"run": name} | parameters)
        return str(self._tracker.logging_dir)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Log scalars."""
        self._tracker.log(values, step=step)

    def file(self, path: str, folder: str) -> None:
        """Log the report as text; all other files are in the output folder anyway."""
        if Path(path).suffix == ".md":
            self._tracker.log({Path(path).stem: Path(path).read_text(encoding="utf-8")})

    def end(self, status: str) -> None:
        """Log the status of the run, and close the event file."""
        self._tracker.log({"status": status})
        self._tracker.finish()


def check_reachable(url: str, seconds: float = SECONDS) -> None:
    """Request the health page of a server; any HTTP answer passes, an error status too.

    Args:
        url: The server, ``http://...`` or ``https://...``.
        seconds: Time limit for the answer.

    Raises:
        OSError: The address cannot be reached, or the answer is late or not HTTP.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]  # urllib accepts no user and password in a URL
    health = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        urllib.request.urlopen(health, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # the server is reachable; MLflow has its own settings for certificates
        raise error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason)) from None
    except http.client.HTTPException as error:
        raise OSError(f"its answer is not HTTP ({error!r})") from None


def _leave_process_group() -> None:
    """Remove a launcher's variables: with them accelerate would wait for the other ranks of the run."""
    from accelerate import PartialState

    for name in [name for name in os.environ if name in _RANKS or name.startswith(_LAUNCHERS)]:
        del os.environ[name]
    PartialState(cpu=True)
