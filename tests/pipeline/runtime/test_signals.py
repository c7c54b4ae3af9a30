"""Stop requests: at once outside of deferred code, after it inside, and anyway when it takes too long."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from pipeline.runtime.signals import HungUp, Interruption, Terminated, leave_signals_to_parent, on_signals

SIGNALS = [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt), (signal.SIGHUP, HungUp)]


@pytest.fixture(autouse=True)
def handlers_are_restored():
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in watched]
    yield
    assert [signal.getsignal(number) for number in watched] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize(("number", "error"), SIGNALS)
def test_outside_of_a_step_a_signal_raises_at_once(number, error):
    passed = []

    def be_signalled():
        with on_signals():
            send(number)
            passed.append("the signal")

    with pytest.raises(error):
        be_signalled()
    assert passed == []


@pytest.mark.parametrize(("number", "error"), SIGNALS)
def test_a_step_is_finished_first(number, error):
    done = []
    with on_signals() as stop:
        with stop.deferred():
            send(number)
            done.append("step")
        assert stop.requested
        with pytest.raises(error):
            stop.check()
    assert done == ["step"]


def test_a_second_signal_does_not_wait_for_the_step():
    passed = []

    def be_signalled():
        with on_signals() as stop, stop.deferred():
            for number in (signal.SIGINT, signal.SIGTERM):
                send(number)
                passed.append(number)

    with pytest.raises(Terminated):
        be_signalled()
    assert passed == [signal.SIGINT]


def test_a_step_that_takes_too_long_is_given_up():
    passed = []

    def be_signalled():
        with on_signals(grace_seconds=1.0) as stop, stop.deferred():
            send(signal.SIGTERM)
            passed.append("the signal")
            time.sleep(600)
            passed.append("the step")

    with pytest.raises(Terminated):
        be_signalled()
    assert passed == ["the signal"]


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a process
    try:
        with on_signals() as stop:
            send(signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_change_no_handlers():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with on_signals() as stop:
            seen.append((signal.getsignal(signal.SIGTERM) == before, stop.requested))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


def test_a_library_caller_asks_without_signals():
    stop = Interruption()
    stop.check()
    assert not stop.request()
    with stop.deferred():
        assert stop.request(ValueError("enough"))
    with pytest.raises(ValueError, match="enough"):
        stop.check()


def test_a_step_that_ended_in_time_is_not_broken_off_later():
    with on_signals(grace_seconds=1.0) as stop:
        with stop.deferred():
            send(signal.SIGTERM)
        with pytest.raises(Terminated):
            stop.check()
        time.sleep(1.2)  # cleaning up takes longer


def worker(ready):
    leave_signals_to_parent()
    ready.set()
    time.sleep(600)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_ends_on_a_signal_of_its_parent(method):
    """A server forks the workers by default from Python 3.14 on."""
    context = multiprocessing.get_context(method)
    ready = context.Event()
    process = context.Process(target=worker, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(60)
    process.terminate()
    process.join(60)
    assert process.exitcode == 0
