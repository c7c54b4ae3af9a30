"""The adapter to accelerate's trackers, MLflow and TensorBoard; it runs in the tracker's own process alone.

A backend is one class here and one entry in ``pipeline.options.registry.TRACKERS``.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.tracking.background import Target

if TYPE_CHECKING:
    from accelerate.tracking import MLflowTracker, TensorBoardTracker

    from pipeline.options.options import Options

import http.client
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit, urlunsplit

EXPERIMENT = "seriesquant"
FINISHED = "FINISHED"
_LAUNCHERS = ("ACCELERATE_", "TORCHELASTIC_", "PMI_", "OMPI_", "MV2_")
_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


class Backend(Protocol):
    """What the tracker's process is asked to do, in this order; ``log`` and ``file`` any number of times."""

    def reach(self) -> None:
        """See whether there is anyone to talk to."""

    def load(self) -> None:
        """Load the libraries: seconds of this machine's work, not of the tracker's."""

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Begin a run; return where one can look at it."""

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Take figures, of an epoch or of the whole run."""

    def file(self, path: str, folder: str) -> None:
        """Keep a copy of a file under a folder's name."""

    def end(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""


class MLflow:
    """An MLflow server, or a store that MLflow's client writes itself (SQLite, a folder, Databricks).

    Args:
        place: The tracking URI; empty for MLflow's own default.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._tracker: MLflowTracker

    @staticmethod
    def target(options: "Options") -> Target:
        """Return the tracker of a run: the URI of its options, or else of the environment."""
        given = {"MLFLOW_TRACKING_URI": options.tracking_uri, "MLFLOW_EXPERIMENT_NAME": options.experiment}
        place = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        return Target("mlflow", place, {name: value for name, value in given.items() if value})

    def reach(self) -> None:
        """Ask a server for any answer.

        Raises:
            OSError: Nobody is there.
        """
        if self._is_server:
            check_reachable(self._place)

    @property
    def _is_server(self) -> bool:
        return self._place.startswith(("http://", "https://"))

    def load(self) -> None:
        """Load MLflow; a store on this machine is created here."""
        _run_alone()
        import mlflow

        if "://" not in self._place or self._place.startswith(("file:", "sqlite:")):
            mlflow.search_experiments(max_results=1)

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Begin a run in the experiment that the environment names, or in ``EXPERIMENT``."""
        from accelerate.tracking import MLflowTracker

        self._tracker = MLflowTracker(EXPERIMENT, run_name=name)
        self._begin_run()
        self._tracker.store_init_configuration(parameters)
        run = self._tracker.tracker.info
        page = f"{self._place.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
        return page if self._is_server else str(run.run_id)

    def _begin_run(self) -> None:
        """Begin it, though another run may create the experiment between the look for it and its creation."""
        from mlflow.exceptions import MlflowException

        try:
            self._tracker.start()
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            self._tracker.start()

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Log metrics."""
        self._tracker.log(values, step=step)

    def file(self, path: str, folder: str) -> None:
        """Upload an artifact."""
        self._tracker.log_artifact(path, folder or None)

    def end(self, status: str) -> None:
        """End the run; accelerate's tracker only knows success."""
        import mlflow

        if status == FINISHED:
            self._tracker.finish()
        else:
            mlflow.end_run(status)


class TensorBoard:
    """Event files in a folder, a new one below it for each run.

    Args:
        place: The folder.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._tracker: TensorBoardTracker

    @staticmethod
    def target(options: "Options") -> Target:
        """Return the tracker of a run: a folder in its output folder."""
        return Target("tensorboard", str((options.out / "tensorboard").resolve()))

    def reach(self) -> None:
        """A folder is always there, or is made."""

    def load(self) -> None:
        """Load the writer of event files."""
        _run_alone()
        import torch.utils.tensorboard  # noqa: F401

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Begin a run, named by the time of day, so that repeated runs into one folder stay apart."""
        from accelerate.tracking import TensorBoardTracker

        self._tracker = TensorBoardTracker(time.strftime("%Y%m%d-%H%M%S"), self._place)
        self._tracker.start()
        self._tracker.store_init_configuration({"run": name} | parameters)
        return str(self._tracker.logging_dir)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Log scalars."""
        self._tracker.log(values, step=step)

    def file(self, path: str, folder: str) -> None:
        """Show the report; the other files lie beside the events already."""
        if Path(path).suffix == ".md":
            self._tracker.log({Path(path).stem: Path(path).read_text(encoding="utf-8")})

    def end(self, status: str) -> None:
        """Note how the run ended, and close the event file."""
        self._tracker.log({"status": status})
        self._tracker.finish()


def _run_alone() -> None:
    """Make this a process of no group: it was started by one of those that ``accelerate launch`` or MPI counts."""
    from accelerate import PartialState

    for name in [name for name in os.environ if name in _RANKS or name.startswith(_LAUNCHERS)]:
        del os.environ[name]
    PartialState(cpu=True)


SECONDS = 30.0


def check_reachable(url: str, seconds: float = SECONDS) -> None:
    """Ask a server for its health; any answer will do, a refusal too.

    Args:
        url: The server, ``http://...`` or ``https://...``.
        seconds: How long to wait for a word.

    Raises:
        OSError: The address leads nowhere, or nobody answers.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]  # urllib takes no user and password there
    health = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    try:
        urllib.request.urlopen(health, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return  # somebody is there; whom to trust is MLflow's to know
        raise error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason)) from None
    except http.client.HTTPException as error:
        raise OSError(f"it does not speak HTTP ({error!r})") from None
