"""The computations of one, two and three processes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

from basis.activations import fit_activations
from basis.errors import CompressionError
from basis.swap import swap_convolutions
from pipeline.data.dataset import Normalization
from pipeline.data.memory import MemorySplit
from pipeline.errors import DataError
from pipeline.runtime.device import make_accelerator, processes_of
from pipeline.runtime.launcher import is_reported_elsewhere
from pipeline.runtime.processes import Processes
from pipeline.runtime.share import WHOLE
from pipeline.runtime.signals import Interruption, Terminated
from pipeline.stages.evaluate import evaluate, measure_together
from pipeline.training.loop import train
from pipeline.training.schedule import Schedule
from pipeline.training.teacher import Teacher
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.formats import IntFormat
from tests.support.networks import tiny_network

ORDERS = {"0.0": (3, 3), "1.0": (2, 2), "2.0": (2, 2)}
CALIBRATION = 41


class Plain(nn.Module):
    """A network without normalization: shared batches differ from whole ones by rounding only. One layer is unused."""

    def __init__(self, seed=3):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(1)
        )
        self.idle, self.head = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.layers(x).flatten(1))


def images(count: int) -> MemorySplit:
    """Images with a bright colour, which is their class."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(4, (count,), generator=generator)
    values = torch.randint(0, 120, (count, 12, 12, 3), generator=generator)
    for image, label in zip(values, labels.tolist(), strict=True):
        image[..., label % 3] += 60 * (label < 3)
        image += 60 * (label == 3)
    return MemorySplit(values.to(torch.uint8), labels, Normalization(), flip=True)


def errors(processes: Processes) -> Iterator[tuple[str, bool]]:
    """Yield the error on this rank if one process fails in each of several ways, and whether the rank reports it."""
    last = processes.count - 1
    for error in (DataError("no data"), OSError(28, "No space left", "file"), ZeroDivisionError("by 0")):
        try:
            with processes.together():
                if processes.rank == last:
                    raise error
        except Exception as raised:
            yield repr(raised), not is_reported_elsewhere(raised)
    try:
        processes.on_main(partial(int, "x"))
    except ValueError as raised:
        yield repr(raised), not is_reported_elsewhere(raised)
    except RuntimeError as raised:
        yield repr(raised), not is_reported_elsewhere(raised)


class Kept:
    """A checkpoint in memory."""

    def __init__(self):
        self.entry = None

    def read(self):
        return self.entry

    def save(self, entry):
        self.entry = entry


def interrupted(accelerator) -> tuple[str, int, int]:
    """Return the error and the step at which training ends if only the last process gets a stop request, in step 2."""
    processes, kept, stop = processes_of(accelerator), Kept(), Interruption()

    def asked(module, inputs):
        asked.steps += 1
        if asked.steps == 2 and processes.rank == processes.count - 1:
            stop.request(KeyboardInterrupt())

    asked.steps, model = 0, Plain()
    with model.head.register_forward_pre_hook(asked):
        try:
            learn = partial(train, accelerator=accelerator, seed=0, checkpoint=kept, interruption=stop)
            learn(model, images(97), Schedule(5, lr=0.01, batch_size=32))
        except (KeyboardInterrupt, Terminated) as end:
            return type(end).__name__, kept.entry.metadata["epoch"], kept.entry.metadata["batch"]
    return "not at all", 0, 0


def results() -> dict[str, object]:
    """Everything that should not depend on the number of processes."""
    accelerator = make_accelerator("cpu")
    processes = processes_of(accelerator)
    found: dict[str, object] = {"processes": processes.count, "errors": list(errors(processes))}
    found["gathered"] = processes.gather(torch.full((max(0, 2 - 2 * processes.rank), 3), 7.0))
    found["main's"] = (processes.broadcast(processes.rank), processes.on_main(lambda: processes.rank))
    network, seen = tiny_network(), []

    def counted(part):
        seen.append(len(part))
        return evaluate(network, part, device=accelerator.device)

    for count in (501, 260, 5):
        seen.clear()
        measured = measure_together(counted, images(count), processes)
        found[f"evaluation {count}"] = (measured.top1, measured.logits)
        found[f"seen {count}"] = sum(seen)

    train_images = images(97)
    shard = processes.calibration_shard(CALIBRATION)
    share = processes.share if shard else WHOLE
    calibration = train_images.sample(CALIBRATION, seed=1, device=accelerator.device, share=share)
    series = swap_convolutions(tiny_network(), ORDERS, "chebyshev")
    found["fit errors"] = fit_activations(series, tiny_network(), calibration, shard=shard)
    found["fit"] = series.state_dict()
    rounded = round_layers(series, calibration, IntFormat(4), get_backend("torch.ao"), rounding="gptq", shard=shard)
    found["rounding errors"] = rounded.errors
    found["rounded"] = {name: values.dequantize() for name, values in rounded.layers.items()}

    teacher = Teacher(Plain(seed=4).eval(), accelerator)
    courses = (("plain", 32, None), ("odd batches", 97, None), ("few", 2, None), ("taught", 32, teacher))
    for name, size, taught in courses:
        model = Plain()
        learn = partial(train, model, train_images, accelerator=accelerator, seed=0, teacher=taught)
        rate = 0.001 if taught else 0.05
        learn(Schedule(1, lr=rate, batch_size=size))
        learn(Schedule(1, lr=rate, batch_size=size), first_epoch=1)
        found[f"trained {name}"] = model.state_dict()
    found["interrupted"] = interrupted(accelerator)
    normalized = swap_convolutions(tiny_network(), ORDERS, "cosine")
    train(normalized, train_images, Schedule(6, lr=0.05, batch_size=24), accelerator=accelerator, seed=0)
    found["trained normalized"] = normalized.state_dict()
    learnt = partial(evaluate, normalized, device=accelerator.device)
    found["learnt"] = measure_together(learnt, images(260), processes).top1
    try:
        train(Plain(), train_images, Schedule(50, lr=1e18, batch_size=24), accelerator=accelerator, seed=0)
    except CompressionError as error:
        found["diverged"] = str(error)
    return found


def write_results(folder: Path) -> None:
    """Write this process' results into a folder."""
    found = results()
    rank = processes_of(make_accelerator("cpu")).rank
    torch.save(found, folder / f"{rank}.pt")
