import io
import json
import logging

import pytest

from pipeline.cli.output import JsonProgressLines
from pipeline.runtime.forwarding import ForwardedLines, ForwardedLog, replay
from pipeline.runtime.progress import LineProgress


def forwarded() -> list[str]:
    """The lines of a worker that begins a stage, follows a task, and reports figures."""
    stream = io.StringIO()
    progress = LineProgress(stream, lambda: 0.0, ForwardedLines())
    progress.stage("cosine 3,2: approximate")
    with progress.track("fine-tuning", 2) as advance:
        advance(2, "loss\n1.0")
    progress.result("cosine 3,2: Top-1 91.20")
    return stream.getvalue().splitlines()


def test_forwarded_progress_keeps_its_kind() -> None:
    stream = io.StringIO()
    for line in forwarded():
        replay(line, LineProgress(stream, lines=JsonProgressLines()))
    stage, task, result = map(json.loads, stream.getvalue().splitlines())
    assert (stage["event"], stage["stage"]) == ("stage", "cosine 3,2: approximate")
    assert (task["event"], task["done"], task["total"], task["ended"]) == ("progress", 2, 2, True)
    assert task["status"] == "loss\n1.0"
    assert (result["event"], result["message"]) == ("result", "cosine 3,2: Top-1 91.20")


def test_forwarded_progress_reads_as_in_one_process() -> None:
    stream = io.StringIO()
    for line in forwarded()[::2]:
        replay(line, LineProgress(stream))
    assert stream.getvalue() == "cosine 3,2: approximate\ncosine 3,2: Top-1 91.20\n"


def test_a_forwarded_record_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("pipeline.stages.train", logging.WARNING, "file", 1, "undone: %d points\n", (2,), None)
    line = ForwardedLog().format(record)
    assert "\n" not in line
    replay(line, LineProgress(io.StringIO()))
    assert caplog.record_tuples == [("pipeline.stages.train", logging.WARNING, "undone: 2 points\n")]
