"""What a worker in another process needs of a run: the stages that the driver has run, and where it ran them."""

import os
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from pipeline.options.options import Options
from pipeline.stages.context import Bench
from pipeline.stages.variant import VariantResult
from pipeline.store.store import Stage
from pipeline.training.state import EpochFigures


@dataclass(frozen=True)
class Shared:
    """The same for all variants of a run; sent once.

    Attributes:
        options: The run's options.
        baseline: The uncompressed network's state dict, on the CPU.
        top1: The baseline's Top-1, in percent.
        store: The store's folder; a worker on another machine uses the folder of that name there.
        device: The kind of device that the driver computes on.
        threads: Threads that a worker computes with.
        folder: The driver's working folder, which the options' paths start from.
        search_path: The driver's search path for modules, where a user's network is found.
        run_id: Tells this run from the others of a worker.
    """

    options: Options
    baseline: dict[str, Tensor]
    top1: float
    store: Path
    device: str
    threads: int
    folder: str = field(default_factory=os.getcwd)
    search_path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Finished:
    """A variant's result, the stages that made it, and the epochs of its trainings, each with the training's name."""

    result: VariantResult
    stages: list[Stage]
    epochs: list[tuple[str, EpochFigures]]


def share(options: Options, bench: Bench, threads: int) -> Shared:
    """What workers need of a run.

    Args:
        options: The run's options.
        bench: What the driver's stages share.
        threads: Threads that a worker computes with.
    """
    state = {name: tensor.detach().cpu() for name, tensor in bench.baseline.state_dict().items()}
    return Shared(options, state, bench.top1, bench.store.folder.absolute(), bench.accelerator.device.type, threads)
