"""Logs and progress on stderr, for people and as JSON lines."""

import io
import json
import logging
import warnings
from datetime import datetime, timedelta

import pytest

from pipeline.cli.output import JsonProgressLines, log_to_stderr
from pipeline.runtime.progress import LineProgress, make_progress


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def log_lines(capsys) -> list[dict]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def is_utc_now(stamp: str) -> bool:
    time = datetime.fromisoformat(stamp)
    return time.utcoffset() == timedelta(0) and abs((datetime.now(time.tzinfo) - time).total_seconds()) < 60


def test_text_is_the_message_and_our_info_is_shown(capsys) -> None:
    log_to_stderr("text")
    logging.getLogger("pipeline.runner").info("read %s", "it")
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("pipeline.cli.entry").error("torn", extra={"exit_code": 4})
    assert capsys.readouterr().err == "read it\nerror: torn\n"


def test_json_is_one_object_a_record(capsys) -> None:
    log_to_stderr("json")
    logging.getLogger("pipeline.runner").warning("two\nlines of %s", "“text”")
    logging.getLogger("pipeline.cli.entry").error("torn", extra={"exit_code": 4})
    warning, error = log_lines(capsys)
    assert is_utc_now(warning.pop("time"))
    assert is_utc_now(error.pop("time"))
    assert warning == {
        "level": "warning",
        "event": "log",
        "logger": "pipeline.runner",
        "message": "two\nlines of “text”",
    }
    assert error == {
        "level": "error",
        "event": "error",
        "logger": "pipeline.cli.entry",
        "message": "torn",
        "exit_code": 4,
    }


def test_a_traceback_stays_within_its_line(capsys) -> None:
    log_to_stderr("json")
    try:
        raise ZeroDivisionError("by us")
    except ZeroDivisionError:
        logging.getLogger("pipeline.cli.entry").exception("internal error")
    (line,) = log_lines(capsys)
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ZeroDivisionError: by us\n")


def test_warnings_are_json_lines_too(capsys) -> None:
    log_to_stderr("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = log_lines(capsys)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "DeprecationWarning: old" in line["message"]


def test_progress_as_json() -> None:
    stream, clock = io.StringIO(), iter([0.0, 1.0, 7.0, 9.5])
    progress = LineProgress(stream, lambda: next(clock), JsonProgressLines())
    progress.stage("baseline")
    progress.result("Top-1 91.20")
    with progress.track("fine-tuning", 3) as advance:
        advance(1, "loss 2.0")
        advance(1, "loss 1.0")
    stage, result, under_way, ended = map(json.loads, stream.getvalue().splitlines())
    assert all(is_utc_now(line.pop("time")) for line in (stage, result, under_way, ended))
    assert stage == {"level": "info", "event": "stage", "message": "baseline", "stage": "baseline"}
    assert result == {"level": "info", "event": "result", "message": "Top-1 91.20"}
    assert under_way == {
        "level": "info",
        "event": "progress",
        "message": "fine-tuning: 2/3, 3.5 s left, loss 1.0",
        "stage": "fine-tuning",
        "done": 2,
        "total": 3,
        "status": "loss 1.0",
        "ended": False,
        "seconds": 7.0,
    }
    assert (ended["ended"], ended["done"], ended["seconds"]) == (True, 2, 9.5)


def test_json_lines_are_written_to_a_terminal_too(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    make_progress(terminal, JsonProgressLines()).stage("baseline")
    assert json.loads(terminal.getvalue())["stage"] == "baseline"
