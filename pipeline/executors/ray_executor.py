"""Run the variants as tasks of a Ray cluster: a given one, or one on this machine that ends with the run.

This is the only module that imports ray. It is loaded only by the executor ``ray``.
"""

import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray
import ray.exceptions

from pipeline.errors import ClusterError, OptionsError
from pipeline.executors import Executor
from pipeline.executors.worker import WorkerPayload, WorkerResult, compute, make_payload
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.runtime.forwarding import LineBoard, replay
from pipeline.runtime.packages import ROOT, clashing
from pipeline.runtime.signals import Interruption
from pipeline.runtime.threads import usable_cpus
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext
from pipeline.stages.variant import VariantResult

LOCAL: Final = "local"
"""Address of a new cluster on this machine."""
CONNECT_SECONDS: Final = 10.0
"""Longest wait for the port of a given cluster."""
POLL_SECONDS: Final = 0.25
"""Longest wait for a task before log lines and stop requests are handled."""
RETRIES: Final = 3
"""Times that a task is started again after its worker was lost."""


@contextmanager
def opened(options: Options, interruption: Interruption) -> Iterator[Executor]:
    """Connect to a cluster and yield its executor; cancel all tasks and disconnect at the end.

    The cluster is the one of the options, else the one of ``RAY_ADDRESS``, else a new one on this machine.

    Args:
        options: The run's options.
        interruption: Pending stop request, checked once the cluster is connected.

    Raises:
        ClusterError: The cluster cannot be reached or started.
        OptionsError: One variant needs more CPUs than this machine has.
    """
    # Ray reads this in ``ray.init``, not on import. Otherwise it sends a usage report to its vendor.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = options.ray_address or os.environ.get("RAY_ADDRESS") or LOCAL
    tasks = RayExecutor()
    try:
        # Signals are deferred because Ray drops an exception that a signal handler raises within it.
        with interruption.deferred(), _ray_side_effects_undone():
            _connect(address, options)
        interruption.check()
        yield tasks
    finally:
        tasks.cancel()
        ray.shutdown()


class RayExecutor:
    """The ``Executor`` of the cluster that Ray is connected to."""

    def __init__(self) -> None:
        self._pending: dict[Any, int] = {}  # reference of a task -> number of its variant

    def __call__(self, context: RunContext, baseline: Baseline, variants: Sequence[Variant]) -> Iterator[VariantResult]:
        """Yield the result of each variant, in their order; see ``pipeline.executors.Executor``.

        Raises:
            ClusterError: A task lost its worker more than ``RETRIES`` times.
            CompressionError: A variant cannot be computed.
        """
        # Signals are deferred because Ray drops an exception that a signal handler raises within it.
        with context.interruption.deferred():
            board = ray.remote(num_cpus=0, max_restarts=-1)(LineBoard).remote()
            self._submit(context, baseline, variants, board)
        results: dict[int, WorkerResult] = {}
        for number in range(len(variants)):
            while number not in results:
                context.interruption.check()
                with context.interruption.deferred():
                    ended = self._poll()
                    log_lines(board, context)  # before a result that may be an error, which ends the run
                    results |= {n: fetch_result(reference, variants[n].name) for reference, n in ended.items()}
            done = results.pop(number)
            context.store.stages += done.stages
            for label, figures in done.epochs:
                context.tracker.epoch(label, figures)
            yield done.result

    def cancel(self) -> None:
        """Kill the pending tasks."""
        for reference in self._pending:
            ray.cancel(reference, force=True)
        self._pending = {}

    def _submit(self, context: RunContext, baseline: Baseline, variants: Sequence[Variant], board: Any) -> None:
        options = context.options
        gpus = options.ray_gpus
        if gpus is None:
            gpus = 1.0 if context.device.type == "cuda" else 0.0
        payload = ray.put(make_payload(context, baseline, options.ray_cpus))
        task = ray.remote(_task).options(num_cpus=options.ray_cpus, num_gpus=gpus, max_retries=RETRIES)
        self._pending = {task.remote(payload, variant, board): number for number, variant in enumerate(variants)}

    def _poll(self) -> dict[Any, int]:
        """Wait for at most ``POLL_SECONDS``; return reference -> number of the variant of the tasks that ended."""
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=POLL_SECONDS)
        return {reference: self._pending.pop(reference) for reference in ready}


def fetch_result(reference: Any, name: str, get: Callable[[Any], Any] | None = None) -> WorkerResult:
    """Return the result of a task that ended, or raise its error in the driver.

    An error that the task raised has the ``RayTaskError`` as its cause, which holds the traceback of the worker.

    Args:
        reference: The task.
        name: The name of its variant.
        get: Reads the value of a reference; ``ray.get`` by default.

    Raises:
        ClusterError: The task lost its worker more than ``RETRIES`` times.
        Exception: Any error that the task raised.
    """
    try:
        result: WorkerResult = (get or ray.get)(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[0]
        raise ClusterError(f"--executor: {name} was lost with its worker {1 + RETRIES} times: {why}") from None
    return result


def _task(payload: WorkerPayload, variant: Variant, board: Any) -> WorkerResult:
    try:
        return compute(payload, variant, board.append.remote)
    finally:
        ray.wait([board.flush.remote()])  # the driver reads the lines once this task has ended


def log_lines(board: Any, context: RunContext) -> None:
    """Log the new lines of the workers. A board that was restarted has lost its lines; the run continues.

    Args:
        board: The actor with the ``LineBoard``.
        context: The run. A stop request ends the wait for a board that does not answer.
    """
    lines = board.drain.remote()
    while not ray.wait([lines], timeout=POLL_SECONDS)[0]:
        context.interruption.check()
    try:
        for line in ray.get(lines):
            replay(line, context.progress)
    except ray.exceptions.RayActorError:
        return


def _connect(address: str, options: Options) -> None:
    resources: dict[str, Any] = {}
    if address == LOCAL:
        # The workers of a cluster that starts here inherit it. They import our packages by their names.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        count = len(usable_cpus())
        resources = {"num_cpus": count}
        if clashing(Path.cwd()):
            # Ray puts the path of Python into a shell command as it is, and waits for ever if the shell splits it.
            python = shlex.quote(sys.executable)
            resources["runtime_env"] = {"worker_process_setup_hook": "seriesquant.install", "py_executable": python}
        if options.ray_cpus > count:
            raise OptionsError(f"--ray-cpus: got {options.ray_cpus}; allowed: 1 to {count}, the CPUs of this machine")
    else:
        _check_reachable(address)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, configure_logging=False, **resources)
    except SystemExit:  # raised by Ray if the cluster does not answer
        raise ClusterError(_unusable(address, "it does not answer")) from None
    except Exception as error:  # Ray raises many types, Exception itself among them
        raise ClusterError(_unusable(address, error)) from None


def _check_reachable(address: str) -> None:
    """Try the port first, because Ray tries for two minutes and then ends the process."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(_unusable(address, error)) from None


def _unusable(address: str, error: object) -> str:
    return f"--executor: the Ray cluster {address} cannot be used: {error}; allowed: one that runs, or --executor local"


@contextmanager
def _ray_side_effects_undone() -> Iterator[None]:
    """Silence Ray's hints, and restore the SIGTERM handler and PYTHONPATH: Ray's handler ends the process."""
    logger, handler = logging.getLogger("ray"), signal.getsignal(signal.SIGTERM)
    path = os.environ.get("PYTHONPATH")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if path is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = path
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
