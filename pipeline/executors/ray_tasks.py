"""The variants of a run as tasks of a Ray cluster.

A task whose worker or machine is lost is run again by Ray, at most ``RETRIES`` times; what its stages had stored is
read back there. An error of ours would come again, so it ends the run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.exceptions

from pipeline.errors import ClusterError
from pipeline.executors.shared import Finished, Shared, share
from pipeline.executors.worker import compute
from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.stages.context import Bench
from pipeline.stages.variant import VariantResult

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

    def __call__(self, options: Options, bench: Bench, variants: Sequence[Variant]) -> Iterator[VariantResult]:
        """See ``pipeline.executors.Executor``.

        Raises:
            ClusterError: A task lost its worker more than ``RETRIES`` times.
        """
        # Steps, because Ray loses what a signal's handler raises within it.
        with bench.interruption.step():
            board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
            self._submit(options, bench, variants, board)
        found: dict[int, Finished] = {}
        for number in range(len(variants)):
            while number not in found:
                bench.interruption.check()
                with bench.interruption.step():
                    found |= self._finished(variants)
                    _show(board, bench)
            finished = found.pop(number)
            bench.store.stages += finished.stages
            for title, figures in finished.epochs:
                bench.tracker.epoch(title, figures)
            yield finished.result

    def cancel(self) -> None:
        """End the tasks that are under way."""
        for reference in self._pending:
            ray.cancel(reference, force=True)
        self._pending = {}

    def _submit(self, options: Options, bench: Bench, variants: Sequence[Variant], board: Any) -> None:
        gpus = options.ray_gpus
        if gpus is None:
            gpus = 1.0 if bench.accelerator.device.type == "cuda" else 0.0
        shared = ray.put(share(options, bench, options.ray_cpus))
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


def _show(board: Any, bench: Bench) -> None:
    """Report what workers have said; a board that is just restarted has nothing."""
    try:
        for line in ray.get(board.take.remote()):
            bench.progress.stage(line)
    except ray.exceptions.RayActorError:
        return
