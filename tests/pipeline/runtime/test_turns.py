import threading
import time
from collections.abc import Callable

import pytest

from pipeline.runtime.progress import SilentProgress, Task
from pipeline.runtime.turns import TURNS, Turns, YieldingProgress

SECONDS = 600.0


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_several_compute_at_once() -> None:
    turns, entered, checked = Turns(), threading.Event(), threading.Event()
    inside: list[str] = []

    def work() -> None:
        with turns.computing():
            inside.append("other")
            entered.set()
            checked.wait(SECONDS)
            inside.remove("other")

    with turns.computing():
        inside.append("this")
        thread = started(work)
        assert entered.wait(SECONDS), "another thread cannot compute beside this one"
        assert inside == ["this", "other"]
        checked.set()
    thread.join(SECONDS)
    assert inside == ["this"]


def test_exclusive_access_waits_until_the_others_yield() -> None:
    turns, events = Turns(), []

    def trace() -> None:
        with turns.computing():
            with turns.exclusive():
                events.append("alone")
                time.sleep(0.05)
                events.append("alone no more")
            events.append("computes again")

    with turns.computing():
        thread = started(trace)
        until(lambda: turns.waiting == 1)
        events.append("computes")
        turns.yield_to_exclusive()
        events.append("goes on")
    thread.join(SECONDS)
    assert events[:3] == ["computes", "alone", "alone no more"]
    assert set(events[3:]) == {"goes on", "computes again"}


def test_exclusive_access_is_of_one_thread() -> None:
    turns, inside, most = Turns(), [], []

    def trace() -> None:
        with turns.computing():
            for _ in range(20):
                with turns.exclusive():
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()

    threads = [started(trace) for _ in range(4)]
    for thread in threads:
        thread.join(SECONDS)
    assert (set(most), len(most)) == ({1}, 80)


def test_a_released_turn_allows_exclusive_access() -> None:
    turns, done = Turns(), threading.Event()

    def trace() -> None:
        with turns.exclusive():
            done.set()

    with turns.computing(), turns.released():
        started(trace)
        assert done.wait(SECONDS)


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.computing(), turns.exclusive():
        raise KeyError
    with turns.exclusive():
        pass


def test_progress_yields_at_each_call() -> None:
    said, alone = [], threading.Event()

    class Words(SilentProgress):
        def stage(self, name: str) -> None:
            said.append(name)

        def result(self, text: str) -> None:
            said.append(text)

    def trace() -> None:
        with TURNS.exclusive():
            alone.set()

    progress = YieldingProgress(Words())
    with TURNS.computing(), progress.track("task", 2) as advance:
        started(trace)
        until(lambda: TURNS.waiting == 1)
        assert not alone.is_set()
        advance(1, "")
        assert alone.wait(SECONDS)
        progress.stage("next")
        progress.result("Top-1 91.2")
    assert said == ["next", "Top-1 91.2"]


def test_a_callers_progress_needs_two_methods_only():
    class Names:
        def __init__(self):
            self.stages = []

        def stage(self, name):
            self.stages.append(name)

    names = Names()
    progress = YieldingProgress(names)
    progress.stage("begins")
    progress.result("Top-1 91.20")
    progress.state(Task("training", 3, 10, "loss 0.5", 1.0, False))
    assert names.stages[:2] == ["begins", "Top-1 91.20"]
    assert "3/10" in names.stages[2]
