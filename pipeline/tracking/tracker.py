"""What a run tells of itself while it runs, and to whom."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.options.registry import TRACKERS
from pipeline.tracking import figures as told
from pipeline.tracking.background import END, BackgroundTracker, Target

if TYPE_CHECKING:
    from pipeline.options.options import Options
    from pipeline.training.state import EpochFigures, TrainingLabel

logger = logging.getLogger(__name__)

FAILED, FINISHED, KILLED = "FAILED", "FINISHED", "KILLED"
KILLED_SECONDS = 3.0  # a run that is told to end has 10 s for everything


class Tracker(Protocol):
    """Takes what a run tells: ``start`` first, ``finish`` or ``fail`` last. None of them raises."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """A run begins.

        Args:
            name: What it is called.
            parameters: Its options.
        """

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """An epoch of a training is over.

        Args:
            label: The training.
            figures: The epoch's number, loss and learning rate.
        """

    def finish(self, report: Mapping[str, Any], folder: Path) -> None:
        """The run is over, and its files are written.

        Args:
            report: The content of report.json.
            folder: The output folder.
        """

    def fail(self, status: str) -> None:
        """The run ended early; after ``finish`` this says nothing.

        Args:
            status: ``FAILED``, or ``KILLED`` when somebody asked for it.
        """


class NullTracker:
    """Tells nobody."""

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Do nothing."""

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Do nothing."""

    def finish(self, report: Mapping[str, Any], folder: Path) -> None:
        """Do nothing."""

    def fail(self, status: str) -> None:
        """Do nothing."""


class RecordingTracker(NullTracker):
    """Keeps the epochs, so that another process can tell them."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self.epochs: list[tuple[TrainingLabel, EpochFigures]] = []

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Keep it."""
        self.epochs.append((label, figures))


class Trackers:
    """Tells several trackers at once; only ``finish`` and ``fail`` wait, for all of them together.

    Args:
        targets: Who they are.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        """Start their processes."""
        self._trackers = [BackgroundTracker(target) for target in targets]
        self._over = False

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Begin a run, or say in a warning that a tracker cannot be reached."""
        for tracker in self._trackers:
            tracker.call("start", name=name, parameters=told.parameters(parameters))

    def epoch(self, label: "TrainingLabel", figures: "EpochFigures") -> None:
        """Log a point of a training's curve."""
        for tracker in self._trackers:
            tracker.call("log", values=told.curve_point(label, figures), step=figures.epoch)

    def finish(self, report: Mapping[str, Any], folder: Path) -> None:
        """Log the final metrics and the files, and wait for it; see ``SILENT_SECONDS`` for how long."""
        self._over, since = True, time.monotonic()
        files = told.report_files(report, folder)
        logger.info("tracking: %d files and the final figures", len(files))
        for tracker in self._trackers:
            for values in told.final_metrics(report):
                tracker.call("log", values=values)
            for path, below in files:
                tracker.call("file", path=str(path.resolve()), folder=below)
            tracker.call(END, status=FINISHED)
        for tracker in self._trackers:
            tracker.wait(since)

    def fail(self, status: str) -> None:
        """Mark the run, and wait for it as ``finish`` does; ``KILLED`` takes ``KILLED_SECONDS`` at most."""
        if self._over:
            return
        self._over, since = True, time.monotonic()
        for tracker in self._trackers:
            tracker.call(END, status=status)
        for tracker in self._trackers:
            tracker.wait(since, KILLED_SECONDS if status == KILLED else None)


@contextmanager
def tracking(options: "Options", *, here: bool = True) -> Iterator[Tracker]:
    """Track a run, and mark it as failed or killed when it ends early.

    Args:
        options: The run's options.
        here: Whether this is the process that tells; of several that do one run together, one does.

    Yields:
        The tracker, started; the caller gives it the epochs, and the report at the end.
    """
    tracker: Tracker = Trackers(targets(options)) if here and options.track else NullTracker()
    tracker.start(options.out.name, options.model_dump(mode="json", exclude={"track", "tracking_uri", "experiment"}))
    try:
        yield tracker
    except Exception:
        tracker.fail(FAILED)
        raise
    except BaseException:  # Ctrl-C, SIGTERM
        tracker.fail(KILLED)
        raise


def targets(options: "Options") -> list[Target]:
    """Return the trackers of a run, and the place where each stores its data."""
    return [TRACKERS[kind].load().target(options) for kind in options.track]
