"""Log a run's parameters, training curves, metrics and files to MLflow or TensorBoard while it runs.

Each tracker works in a process of its own, so that it can neither delay nor disturb the run: see ``background``.
"""

from pipeline.tracking.tracker import NullTracker, RecordingTracker, Tracker, tracking

__all__ = ["NullTracker", "RecordingTracker", "Tracker", "tracking"]
