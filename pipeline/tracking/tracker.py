"""Log a run to its trackers while it runs."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pipeline.options.registry import TRACKERS
from pipeline.tracking.background import END, BackgroundTracker, Destination
from pipeline.tracking.figures import curve_point, final_metrics, report_files
from pipeline.tracking.figures import parameters as tracked_parameters

if TYPE_CHECKING:
    from pipeline.options.options import Options
    from pipeline.training.state import EpochFigures, TrainingLabel

logger = logging.getLogger(__name__)

FAILED, FINISHED, KILLED = "FAILED", "FINISHED", "KILLED"
KILLED_SECONDS: Final = 3.0
"""Longest wait for the trackers after a stop signal, when the whole run has 10 s to end."""


@contextmanager
def tracking(options: "Options") -> Iterator["Tracker"]:
    """Track a run: start its trackers, and mark the run as failed or killed if the block raises.

    Args:
        options: The run's options.

    Yields:
        The started tracker. The caller logs the epochs to it and calls ``finish`` at the end.
    """
    if unused := _unused(options):
        logger.warning("%s: not used, because the run does not log to MLflow (--track mlflow)", " and ".join(unused))
    tracker: Tracker = Trackers(destinations(options)) if options.track else NullTracker()
    tracker.start(options.out.name, options.model_dump(mode="json", exclude={"track", "tracking_uri", "experiment"}))
    try:
        yield tracker
    except Exception:
        tracker.fail(FAILED)
        raise
    except BaseException:  # Ctrl-C, SIGTERM
        tracker.fail(KILLED)
        raise


def _unused(options: "Options") -> list[str]:
    """Return the flags of MLflow that are set for a run without it."""
    given = {"--tracking-uri": options.tracking_uri, "--experiment": options.experiment}
    return [] if "mlflow" in options.track else [flag for flag, value in given.items() if value is not None]


def destinations(options: "Options") -> list[Destination]:
    """Return the trackers of a run and the place where each stores its data."""
    return [TRACKERS[kind].load().destination(options) for kind in options.track]


class Tracker(Protocol):
    """Log a run: ``start`` is the first call, ``finish`` or ``fail`` the last. No method raises."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Start a run.

        Args:
            name: The name of the run.
            parameters: Its options.
        """

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Log a finished epoch.

        Args:
            label: The training.
            figures: The epoch's number, loss and learning rate.
        """

    def finish(self, report: Mapping[str, Any], folder: Path) -> None:
        """Log the results of a finished run, whose files are written.

        Args:
            report: The content of report.json.
            folder: The output folder.
        """

    def fail(self, status: str) -> None:
        """Mark the run as ended early; without effect after ``finish``.

        Args:
            status: ``FAILED``, or ``KILLED`` after a stop signal.
        """


class NullTracker:
    """Log nothing."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Do nothing."""

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Do nothing."""

    def finish(self, report: Mapping[str, Any], folder: Path) -> None:
        """Do nothing."""

    def fail(self, status: str) -> None:
        """Do nothing."""


class RecordingTracker(NullTracker):
    """Keep the epochs in memory, so that a worker can return them to the driver.

    Attributes:
        epochs: Each epoch with the label of its training, in the order of the calls.
    """

    def __init__(self) -> None:
        self.epochs: list[tuple[TrainingLabel, EpochFigures]] = []

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Append the epoch to ``epochs``."""
        self.epochs.append((label, figures))


class Trackers:
    """Log to several trackers at once; only ``finish`` and ``fail`` wait, for all trackers together.

    Args:
        destinations: The trackers.
    """

    def __init__(self, destinations: Sequence[Destination]) -> None:
        """Start their processes."""
        self._trackers = [BackgroundTracker(destination) for destination in destinations]
        self._ended = False

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Start a run; a tracker that cannot be reached later logs one warning."""
        for tracker in self._trackers:
            tracker.call("start", name=name, parameters=tracked_parameters(parameters))

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Log a point of a training's curve."""
        for tracker in self._trackers:
            tracker.call("log", values=curve_point(label, figures), step=figures.epoch)

    def finish(self, report: Mapping[str, Any], folder: Path) -> None:
        """Log the final metrics and the files, and wait for the trackers; see ``BackgroundTracker.wait``."""
        self._ended, since = True, time.monotonic()
        files = report_files(report, folder)
        logger.info("tracking: %d files and the final figures", len(files))
        for tracker in self._trackers:
            for values in final_metrics(report):
                tracker.call("log", values=values)
            for path, below in files:
                tracker.call("file", path=str(path.resolve()), folder=below)
            tracker.call(END, status=FINISHED)
        for tracker in self._trackers:
            tracker.wait(since)

    def fail(self, status: str) -> None:
        """Mark the run and wait for the trackers as ``finish`` does, for ``KILLED`` at most ``KILLED_SECONDS``."""
        if self._ended:
            return
        self._ended, since = True, time.monotonic()
        for tracker in self._trackers:
            tracker.call(END, status=status)
        for tracker in self._trackers:
            tracker.wait(since, KILLED_SECONDS if status == KILLED else None)
