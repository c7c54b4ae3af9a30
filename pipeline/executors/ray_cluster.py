"""A Ray cluster: the one at an address, or one of this machine alone that ends with the run."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import ClusterError, OptionsError
from pipeline.executors import Executor
from pipeline.options.options import Options
from pipeline.runtime.signals import Interruption

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
    import ray

    from pipeline.executors.ray_tasks import RayTasks

    address = options.ray_address or os.environ.get("RAY_ADDRESS") or LOCAL
    tasks = RayTasks()
    try:
        with interruption.step(), _as_it_was():  # a step, because Ray loses what a signal's handler raises within it
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
    import ray

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
