"""Rows of a target size: seconds of the first and of a second target, as ratios to the fit and gptq of fixed widths.

Each ratio is printed of seconds and of CPU seconds, which depend less on other work of the machine.

Argument `resnet20` (32x32 images: 1,000 for fixed widths, and for the target the most that it uses; the default) or
`resnet18` (256 images of 224x224 for both). Weights are random and images smooth noise: the work does not depend on
their values.
"""

import copy
import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from calibration_speed import calibrate, smooth_noise
from torch import Tensor, nn

from basis.memory import keep_freed_memory
from basis.swap import swap_convolutions
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.models.registry import build_model
from pipeline.options.orders import parse_config
from quant.backends import get_backend
from quant.coarse_scales import with_coarse_scales
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import RatePlan
from quant.rate_rounding import ROUNDING_IMAGES, round_network

BITS_PER_VALUE = 1.5


class Job(NamedTuple):
    config: str
    classes: int
    size: int
    images: int
    target_images: int


JOBS = {
    "resnet20": Job("3,3,2,2", 10, 32, 1000, ROUNDING_IMAGES),
    "resnet18": Job("6,3,3,2,2", 1000, 224, 256, 256),
}


def series(original: nn.Module, config: str) -> nn.Module:
    orders = orders_of(plan_layers(original, parse_config(config)))
    return swap_convolutions(copy.deepcopy(original), orders, "cosine").eval()


class Seconds(NamedTuple):
    """Seconds and CPU seconds of a piece of work."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> "Seconds":
        start = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - start[0], time.process_time() - start[1])

    def __str__(self) -> str:
        return f"{self.wall:.1f} s (CPU {self.cpu:.1f} s)"

    def over(self, other: "Seconds") -> str:
        """Return the ratios as text."""
        return f"{self.wall / other.wall:.2f} (CPU {self.cpu / other.cpu:.2f})"


def target_seconds(model: nn.Module, original: nn.Module, images: Tensor) -> tuple[Seconds, Seconds]:
    """Return the seconds of the first and of the second target."""
    bits = BITS_PER_VALUE * sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    kept: list[tuple[nn.Module, OriginalPass, RatePlan]] = []

    def first() -> None:
        recorded = OriginalPass.record(model, original, images)
        scaled = with_coarse_scales(model, recorded)
        kept.append((scaled, recorded, RatePlan.of(scaled, measure_layers(scaled, recorded))))
        round_network(*kept[0], bits)

    return Seconds.of(first), Seconds.of(lambda: round_network(*kept[0], 0.7 * bits))


def main() -> None:
    names = sys.argv[1:] or ["resnet20"]
    if names[0] not in JOBS:
        sys.exit(f"target_speed: network {names[0]!r}; allowed: {', '.join(JOBS)}")
    job = JOBS[names[0]]
    keep_freed_memory()  # as the program does
    torch.manual_seed(0)
    original = build_model(names[0], job.classes).eval().to(memory_format=torch.channels_last)
    images = smooth_noise(job.target_images, job.size)
    backend = get_backend("brevitas")
    narrow = series(original, job.config)
    widths = Seconds.of(lambda: calibrate(narrow, original, images[: job.images], backend))
    full = ",".join(["7" if names[0] == "resnet18" else "3"] + ["3"] * (len(job.config.split(",")) - 1))
    first, second = target_seconds(series(original, full), original, images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    print(
        f"target_speed: {names[0]}: fit and gptq {widths}; first target {first}, {first.over(widths)} times; second "
        f"{second}, {second.over(first)} of the first; peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
