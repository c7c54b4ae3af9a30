import io
from collections.abc import Iterator

import pytest

from pipeline.runtime.progress import BarProgress, LineProgress, SilentProgress, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _steps(clock: Clock, seconds: list[float]) -> Iterator[None]:
    for second in seconds:
        clock.now += second
        yield


def test_plain_lines_are_few_and_tell_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with LineProgress(stream, clock).track("fine-tune", 100) as advance:
        for step, _ in enumerate(_steps(clock, [1.0] * 100)):
            advance(1, f"loss {step}")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "fine-tune: 5/100, 1 min 35 s left, loss 4"
    assert lines[-1] == "fine-tune: 100/100, took 1 min 40 s, loss 99"
    assert len(lines) == 20


def test_a_quick_task_leaves_one_line() -> None:
    stream = io.StringIO()
    progress = LineProgress(stream, Clock())
    progress.stage("evaluate")
    progress.result("Top-1 91.20")
    with progress.track("images", 0):
        pass
    assert stream.getvalue() == "evaluate\nTop-1 91.20\nimages: 0/0, took 0.0 s\n"


def test_no_step_yet_has_no_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with LineProgress(stream, clock).track("load", 10) as advance:
        clock.now = 6
        advance(0, "")
    assert stream.getvalue().splitlines() == ["load: 0/10, unknown left", "load: 0/10, took 6.0 s"]


def test_a_failed_task_does_not_say_that_it_ended() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), LineProgress(stream, Clock()).track("train", 3):
        raise RuntimeError
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (42, "42 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, words: str) -> None:
    stream, clock = io.StringIO(), Clock()
    with LineProgress(stream, clock).track("t", 1):
        clock.now += seconds
    assert stream.getvalue() == f"t: 0/1, took {words}\n"


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = make_progress(stream)
    assert isinstance(progress, BarProgress)
    progress.stage("cosine [6,3]")
    progress.result("Top-1 [91]")
    with progress.track("outer", 2) as outer, progress.track("inner [x]", 3) as inner:
        inner(3, "loss 0.1")
        outer(1, "")
    text = stream.getvalue()
    assert "cosine [6,3]" in text
    assert "Top-1 [91]" in text
    assert "inner [x]: 3/3, took" in text
    assert "outer: 1/2, took" in text


def test_a_failed_bar_is_taken_down() -> None:
    progress = BarProgress(Terminal())
    with pytest.raises(RuntimeError), progress.track("train", 3):
        raise RuntimeError
    with progress.track("again", 1) as advance:
        advance(1, "")


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_progress(io.StringIO()), LineProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(Terminal()), LineProgress)


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with SilentProgress().track("task", 2) as advance:
        SilentProgress().stage("stage")
        SilentProgress().result("figures")
        advance(2, "done")
    assert capfd.readouterr() == ("", "")
