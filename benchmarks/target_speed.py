"""Rows of a target size: seconds of the first and of a second target, as ratios to the fit and gptq of fixed widths.

Argument `resnet20` (32x32 images: 1,000 for fixed widths, 4,000 for the target; the default) or `resnet18` (256 images
of 224x224 for both). Weights are random and images smooth noise: the work does not depend on their values. With
`--brevitas`, the network is also rounded by Brevitas' own GPTQ with the images of the target.
"""

import copy
import resource
import sys
import time
from typing import NamedTuple

import torch
from calibration_speed import calibrate, smooth_noise
from torch import Tensor, nn

from basis.swap import swap_convolutions
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.models.registry import build_model
from pipeline.options.orders import parse_config
from quant.backends import get_backend
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate_rounding import round_network

BITS_PER_VALUE = 1.5


class Job(NamedTuple):
    config: str
    classes: int
    size: int
    images: int
    target_images: int


JOBS = {
    "resnet20": Job("3,3,2,2", 10, 32, 1000, 4000),
    "resnet18": Job("6,3,3,2,2", 1000, 224, 256, 256),
}


def series(original: nn.Module, config: str) -> nn.Module:
    orders = orders_of(plan_layers(original, parse_config(config)))
    return swap_convolutions(copy.deepcopy(original), orders, "cosine").eval()


def target_seconds(model: nn.Module, original: nn.Module, images: Tensor) -> tuple[float, float, float]:
    """Return the seconds of the first and of the second target, and the largest memory in MB."""
    bits = BITS_PER_VALUE * sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    times = [time.perf_counter()]
    recorded = OriginalPass.record(model, original, images)
    measured = measure_layers(model, recorded)
    round_network(model, recorded, measured, bits)
    times.append(time.perf_counter())
    round_network(model, recorded, measured, 0.7 * bits)
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return times[1] - times[0], times[2] - times[1], peak


def brevitas_seconds(original: nn.Module, images: Tensor) -> float:
    """Return the seconds of Brevitas' GPTQ at 4 bits."""
    from brevitas.graph.gptq import gptq_mode
    from brevitas.graph.quantize import layerwise_quantize
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat

    options = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 4, "return_quant_tensor": False}
    layers = {nn.Conv2d: (QuantConv2d, options), nn.Linear: (QuantLinear, options)}
    model = layerwise_quantize(copy.deepcopy(original), compute_layer_map=layers).eval()
    start = time.perf_counter()
    with torch.no_grad(), gptq_mode(model, use_quant_activations=False) as gptq:
        for _ in range(gptq.num_layers):
            for batch in images.split(250):
                gptq.model(batch)
            gptq.update()
    return time.perf_counter() - start


def main() -> None:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")] or ["resnet20"]
    if names[0] not in JOBS:
        sys.exit(f"target_speed: network {names[0]!r}; allowed: {', '.join(JOBS)}")
    job = JOBS[names[0]]
    torch.manual_seed(0)
    original = build_model(names[0], job.classes).eval().to(memory_format=torch.channels_last)
    images = smooth_noise(job.target_images, job.size)
    backend = get_backend("brevitas")
    widths = sum(calibrate(series(original, job.config), original, images[: job.images], backend))
    full = ",".join(["7" if names[0] == "resnet18" else "3"] + ["3"] * (len(job.config.split(",")) - 1))
    first, second, peak = target_seconds(series(original, full), original, images)
    print(
        f"target_speed: {names[0]}: fit and gptq {widths:.1f} s; first target {first:.1f} s, "
        f"{first / widths:.2f} times; second {second:.1f} s, {second / first:.2f} of the first; peak {peak:.0f} MB"
    )
    if "--brevitas" in sys.argv:
        seconds = brevitas_seconds(original, images)
        print(f"target_speed: Brevitas' GPTQ {seconds:.1f} s, {seconds / first:.1f} times the first target")


if __name__ == "__main__":
    main()
