"""Measure the inference times of networks side by side."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from pipeline.onnx.session import open_session, run_session

ROUNDS: Final = 15  # of which the median is taken
MOST_SECONDS: Final = 1.0  # of all rounds together; one round is always measured
_MS: Final = 1000.0


@dataclass(frozen=True)
class InferenceTimes:
    """Median times for one image, in milliseconds; None where a network was not measured.

    Attributes:
        original: The uncompressed network, in PyTorch.
        artifact: The network in the artifact, in PyTorch.
        onnx: The ONNX file, in onnxruntime on the CPU.
    """

    original: float | None = None
    artifact: float | None = None
    onnx: float | None = None


@torch.no_grad()
def inference_times(original: nn.Module, network: nn.Module, portable: bytes | None, image: Tensor) -> InferenceTimes:
    """Measure networks in turns, so that other load of the machine affects all of them alike.

    Args:
        original: The uncompressed network, on the device of the image and in evaluation mode.
        network: The compressed network, likewise.
        portable: The ONNX file of the compressed network, or None.
        image: (1, C, H, W), normalized.

    Returns:
        The times; all None if a network does not accept a single image.
    """
    calls: list[Callable[[], object]] = [lambda: _synchronized(original, image), lambda: _synchronized(network, image)]
    if portable is not None:
        session, on_cpu = open_session(portable), image.cpu().contiguous()
        calls.append(lambda: run_session(session, on_cpu))
    try:
        return InferenceTimes(*alternating_medians(calls))
    except Exception:  # the code of a user's network, which may need several images; the report has no time then
        return InferenceTimes()


def alternating_medians(
    calls: Sequence[Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the median duration of each call, in milliseconds, after one call that is not counted.

    Args:
        calls: The calls, which take turns.
        clock: Monotonic seconds.
    """
    for call in calls:
        call()
    durations: list[list[float]] = [[] for _ in calls]
    end = clock() + MOST_SECONDS
    for number in range(ROUNDS):
        if number and clock() > end:
            break
        for call, found in zip(calls, durations, strict=True):
            begin = clock()
            call()
            found.append(_MS * (clock() - begin))
    return [round(statistics.median(found), 4) for found in durations]


def _synchronized(network: nn.Module, image: Tensor) -> None:
    """Run a network and wait until its device has finished."""
    network(image)
    if image.device.type != "cpu":
        torch.accelerator.synchronize(image.device)
