"""A Ray cluster: the one at an address, or one of this machine alone that ends with the run."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions

from pipeline.errors import ClusterError, OptionsError
from pipeline.executors import Executor
from pipeline.executors.worker import Finished, Shared, compute, share
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.runtime.forwarding import replay
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext
from pipeline.stages.variant import VariantResult

LOCAL = "local"
SECONDS_TO_CONNECT = 10.0


@contextmanager
def opened(options: Options, interruption: Interruption) -> Iterator[Executor]:
    """Connect to the cluster of the options or of ``RAY_ADDRESS``, else start one; at the end leave nothing running.

    Raises:
        ClusterError: It cannot be reached.
        OptionsError: No variant would fit into the machine.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else a report of the cluster goes to Ray's makers

    address = options.ray_address or os.environ.get("RAY_ADDRESS") or LOCAL
    tasks = RayTasks()
    try:
        with (
            interruption.deferred(),
            _as_it_was(),
        ):  # a step, because Ray loses what a signal's handler raises within it
            _connect(address, options)
        interruption.check()
        yield tasks
    finally:
        tasks.cancel()
        ray.shutdown()


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _connect(address: str, options: Options) -> None:
    resources: dict[str, Any] = {}
    if address == LOCAL:
        resources = {"num_cpus": cpus()}
        if options.ray_cpus > cpus():
            raise OptionsError(f"--ray-cpus: got {options.ray_cpus}; allowed: 1 to {cpus()}, the CPUs of this machine")
    else:
        _check_reachable(address)
    try:
        ray.init(
            address,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            **resources,
        )
    except SystemExit:  # what Ray does when nothing answers it
        raise ClusterError(_unusable(address, "it does not answer")) from None
    except Exception as error:  # Ray raises many kinds, Exception itself among them
        raise ClusterError(_unusable(address, error)) from None


def _check_reachable(address: str) -> None:
    """Try the port first: Ray itself tries for two minutes, and then ends the process."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_unusable(address, error)) from None


def _unusable(address: str, error: object) -> str:
    return f"--executor: the Ray cluster {address} cannot be used: {error}; allowed: one that runs, or --executor local"


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Silence Ray's hints, and put the handler of SIGTERM back, which Ray replaces by one that ends the process."""
    logger, handler = logging.getLogger("ray"), signal.getsignal(signal.SIGTERM)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


RETRIES = 3
SECONDS_BETWEEN_LOOKS = 0.25


class Board:
    """Where workers leave lines for the driver: an actor of the cluster."""

    def __init__(self) -> None:
        """There are no lines yet."""
        self._lines: list[str] = []

    def say(self, line: str) -> None:
        """Leave a line."""
        self._lines.append(line)

    def take(self) -> list[str]:
        """The lines since the last time."""
        lines, self._lines = self._lines, []
        return lines


def _task(shared: Shared, variant: Variant, board: Any) -> Finished:
    return compute(shared, variant, board.say.remote)


class RayTasks:
    """An executor on the cluster that Ray is connected to."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._pending: dict[Any, int] = {}

    def __call__(self, context: RunContext, baseline: Baseline, variants: Sequence[Variant]) -> Iterator[VariantResult]:
        """See ``pipeline.executors.Executor``.

        Raises:
            ClusterError: A task lost its worker more than ``RETRIES`` times.
        """
        # Steps, because Ray loses what a signal's handler raises within it.
        with context.interruption.deferred():
            board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
            self._submit(context, baseline, variants, board)
        found: dict[int, Finished] = {}
        for number in range(len(variants)):
            while number not in found:
                context.interruption.check()
                with context.interruption.deferred():
                    found |= self._finished(variants)
                    _show(board, context)
            finished = found.pop(number)
            context.store.stages += finished.stages
            for label, figures in finished.epochs:
                context.tracker.epoch(label, figures)
            yield finished.result

    def cancel(self) -> None:
        """End the tasks that are under way."""
        for reference in self._pending:
            ray.cancel(reference, force=True)
        self._pending = {}

    def _submit(self, context: RunContext, baseline: Baseline, variants: Sequence[Variant], board: Any) -> None:
        options = context.options
        gpus = options.ray_gpus
        if gpus is None:
            gpus = 1.0 if context.device.type == "cuda" else 0.0
        shared = ray.put(share(context, baseline, options.ray_cpus))
        task = ray.remote(_task).options(num_cpus=options.ray_cpus, num_gpus=gpus, max_retries=RETRIES)
        self._pending = {task.remote(shared, variant, board): number for number, variant in enumerate(variants)}

    def _finished(self, variants: Sequence[Variant]) -> dict[int, Finished]:
        """Number of the variant -> what has come since the last look, after a short wait at most."""
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=SECONDS_BETWEEN_LOOKS)
        numbers = {reference: self._pending.pop(reference) for reference in ready}
        return {number: _result(reference, variants[number]) for reference, number in numbers.items()}


def _result(reference: Any, variant: Variant) -> Finished:
    """What a task gave, or its error as if it had been raised here."""
    try:
        finished: Finished = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[0]
        raise ClusterError(f"--executor: {variant.name} was lost with its worker {1 + RETRIES} times: {why}") from None
    return finished


def _show(board: Any, context: RunContext) -> None:
    """Report what workers have said; a board that is just restarted has nothing."""
    try:
        for line in ray.get(board.take.remote()):
            replay(line, context.progress)
    except ray.exceptions.RayActorError:
        return
