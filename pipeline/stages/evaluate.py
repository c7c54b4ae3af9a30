"""Top-1 on the test images, in float32."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.dataset import Dataset, Images, Split
from pipeline.runtime.device import placed
from pipeline.runtime.processes import Processes

EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """What a network said of a set of images.

    Attributes:
        top1: Share of right predictions, in percent.
        logits: float32, shape (images, classes), on the CPU.
    """

    top1: float
    logits: Tensor


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, *, device: torch.device) -> Evaluation:
    """Run a network over images in their own order.

    Args:
        model: The network; it is moved to the device and set to evaluation mode.
        images: Images and labels.
        device: Where to run.

    Returns:
        Top-1 in percent and all logits, computed in float32 without autocast.
    """
    return measure(placed(model, device).eval(), images, device=device)


def measure(call: Callable[[Tensor], Tensor], images: Images, *, device: torch.device) -> Evaluation:
    """Compare the answers of any function of a batch with the labels.

    Args:
        call: From images, (N, 3, H, W), to logits, (N, classes).
        images: Images and labels, taken in their own order.
        device: Where the batches live.
    """
    outputs, right = [], 0
    for x, labels in images.batches(EVALUATION_BATCH, device=device):
        logits = call(x).float()
        right += int((logits.argmax(dim=1) == labels).sum())
        outputs.append(logits.cpu())
    return Evaluation(100 * right / len(images), torch.cat(outputs))


def evaluate_together(model: nn.Module, images: Split, processes: Processes) -> Evaluation:
    """Run a network over images of which each process takes a part, on its own device; see ``measure_together``."""
    return measure_together(lambda part: evaluate(model, part, device=processes.device), images, processes)


def measure_together(measured: Callable[[Split], Evaluation], images: Split, processes: Processes) -> Evaluation:
    """Let each process measure its part of the images: whole batches, cut as with one process.

    Args:
        measured: What a process does with its part, for example ``evaluate``; no method of `processes` is called in it.
        images: All images, in their order.
        processes: Those that take part.

    Returns:
        What one process would have found of all images, in each of them.
    """
    if processes.count == 1:
        return measured(images)
    batches = -(-len(images) // EVALUATION_BATCH)
    mine = processes.share.of(batches)
    part = images.part(mine.start * EVALUATION_BATCH, mine.stop * EVALUATION_BATCH)
    with processes.together():
        own = measured(part) if len(part) else Evaluation(0.0, torch.empty(0))
    right = processes.sum(torch.tensor(round(own.top1 * len(part) / 100)))
    return Evaluation(100 * int(right) / len(images), processes.gather(own.logits))


MOST_BATCHES = 2


MOST_BYTES = 100_000_000


def images_to_reload(data: Dataset) -> int:
    """How many test images are compared: whole batches as they were measured, two unless they are large."""
    height, width = data.image_size
    batches = MOST_BYTES // (EVALUATION_BATCH * 3 * height * width * 4)
    return min(len(data.test), EVALUATION_BATCH * max(1, min(MOST_BATCHES, batches)))
