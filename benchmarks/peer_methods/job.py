"""One comparison: its inputs, the runs of a method, and the measurement of one run."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.dataset import Dataset
from pipeline.data.sources import load_dataset
from pipeline.models.registry import build_model
from pipeline.models.weights import load_weights
from pipeline.stages.evaluate import evaluate

CALIBRATION_IMAGES, SEED = 1000, 0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """Inputs that all methods share.

    Attributes:
        model: Name of the network.
        weights: The checkpoint.
        data: The `.npz` file.
        threads: Number of threads of every method.
        folder: Folder of the written files.
        original: The uncompressed network, in evaluation mode.
        dataset: Its training and test images.
        images: The calibration images, float32, (1000, C, H, W).
    """

    model: str
    weights: Path
    data: Path
    threads: int
    folder: Path
    original: nn.Module
    dataset: Dataset
    images: Tensor

    @classmethod
    def load(cls, model: str, weights: Path, data: Path, threads: int, folder: Path) -> "Job":
        """Load the network and the images; the calibration images are those of a run with seed 0."""
        dataset = load_dataset(str(data))
        original = build_model(model, dataset.classes)
        load_weights(original, weights)
        images = dataset.train.sample(CALIBRATION_IMAGES, seed=SEED, device=CPU)
        return cls(model, weights, data, threads, folder, original.eval(), dataset, images)

    def network(self) -> nn.Module:
        """Return the network with random weights."""
        return build_model(self.model, self.dataset.classes).eval()

    def top1(self, network: nn.Module) -> float:
        """Return Top-1 on the test images, in percent."""
        return evaluate(network, self.dataset.test, device=CPU).top1


class Run(NamedTuple):
    """One setting of a method.

    Attributes:
        method: Name of the method; rows of a name make one line of the plot.
        options: Options that differ between its runs.
        write: Compresses the network and writes the file; it is timed.
        read: Returns the network that the file holds.
        before: CPU and wall seconds spent before `write`, if several runs share their work: the share of this one.
    """

    method: str
    options: str
    write: Callable[[Path], None]
    read: Callable[[Path], nn.Module]
    before: tuple[float, float] = (0.0, 0.0)


class Row(NamedTuple):
    """The figures of one run, or its error.

    Attributes:
        method: See `Run`.
        options: See `Run`.
        bytes: Size of the file.
        top1: Top-1 of the network read from the file, in percent.
        cpu_s: CPU seconds of `Run.before` and `Run.write`, child processes included.
        wall_s: Wall seconds of both.
        error: The error in one line; the figures are then None.
    """

    method: str
    options: str
    bytes: int | None = None
    top1: float | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    error: str | None = None


def measured(name: str, runs: Callable[[Job], Iterator[Run]], job: Job) -> Iterator[Row]:
    """Yield a row for each run of a method; a failed run has its error, and the others follow.

    Args:
        name: Name of the method, for a row if its library cannot be imported.
        runs: Imports the library and yields the runs.
        job: The inputs.
    """
    try:
        for number, run in enumerate(runs(job)):
            row = _measure(run, job, job.folder / f"{run.method}-{number}".replace(" ", "-").lower())
            print(f"peers: {describe(row)}", file=sys.stderr, flush=True)
            yield row
    except ModuleNotFoundError as error:
        yield Row(name, "", error=f"not installed ({error.name})")
    except Exception as error:
        yield Row(name, "", error=one_line(error))


def _measure(run: Run, job: Job, path: Path) -> Row:
    start, cpu = time.perf_counter(), cpu_seconds()
    try:
        run.write(path)
        cpu_s, wall_s = run.before[0] + cpu_seconds() - cpu, run.before[1] + time.perf_counter() - start
        top1 = job.top1(run.read(path))
    except (Exception, SystemExit) as error:  # NNCodec reports errors as SystemExit
        return Row(run.method, run.options, error=one_line(error))
    return Row(run.method, run.options, path.stat().st_size, top1, round(cpu_s, 2), round(wall_s, 2))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    return sum(os.times()[:4])


def one_line(error: BaseException) -> str:
    """Return an error as one line of at most 120 characters."""
    words = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {words}"[:120]


def describe(row: Row) -> str:
    """Return a row as one line of progress."""
    if row.error is not None:
        return f"{row.method} {row.options}: {row.error}"
    return f"{row.method} {row.options}: {row.bytes:,} bytes, {row.top1:.2f}, {row.cpu_s} s of CPU"
