"""Fit to activations and gptq rounding of a whole network: seconds, peak memory, and where the time goes.

Argument `resnet20` (1,000 images of 32x32, orders 3,3,2,2; the default) or `resnet18` (256 of 224x224, 6,3,3,2,2).
Weights are random and images smooth noise: the work does not depend on their values. With `--brevitas`, the dense
network is instead rounded to 4 bits by gptq and by Brevitas' own GPTQ, with the same images and threads.
"""

import copy
import cProfile
import pstats
import resource
import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from basis.activations import fit_activations
from basis.memory import keep_freed_memory
from basis.swap import swap_convolutions
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.models.registry import build_model
from pipeline.options.orders import parse_config
from quant.backends import Backend, get_backend
from quant.calibration import round_layers
from quant.formats import IntFormat


class Job(NamedTuple):
    config: str
    classes: int
    images: int
    size: int
    seconds: float
    megabytes: float


JOBS = {
    "resnet20": Job("3,3,2,2", 10, 1000, 32, seconds=10, megabytes=4000),
    "resnet18": Job("6,3,3,2,2", 1000, 256, 224, seconds=180, megabytes=4000),
}
# Time inside these functions and what they call; none of them calls another one.
PARTS = {
    "patches": ["patch_batches"],
    "outputs sampled": ["of"],
    "rounding": ["gptq"],
    "solving": ["ridge_solution"],
    "networks": ["<built-in method torch.conv2d>", "<built-in method torch.batch_norm>"],
}


def smooth_noise(count: int, size: int) -> Tensor:
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).contiguous(memory_format=torch.channels_last)


def calibrate(model: nn.Module, original: nn.Module, images: Tensor, backend: Backend) -> tuple[float, float]:
    """Measure the seconds of the fit and of the rounding."""
    start = time.perf_counter()
    fit_activations(model, original, images)
    fitted = time.perf_counter()
    round_layers(model, images, IntFormat(4), backend, rounding="gptq")
    return fitted - start, time.perf_counter() - fitted


def brevitas_seconds(original: nn.Module, images: Tensor) -> float:
    """Return the seconds of Brevitas' GPTQ at 4 bits."""
    from brevitas.graph.gptq import gptq_mode
    from brevitas.graph.quantize import layerwise_quantize
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloat

    options = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": 4, "return_quant_tensor": False}
    layers = {nn.Conv2d: (QuantConv2d, options), nn.Linear: (QuantLinear, options)}
    # Without an error, gptq_mode leaves weights in channels_last as they are (0.13.4).
    plain = copy.deepcopy(original).to(memory_format=torch.contiguous_format)
    model = layerwise_quantize(plain, compute_layer_map=layers).eval()
    start = time.perf_counter()
    with torch.no_grad(), gptq_mode(model, use_quant_activations=False) as gptq:
        for _ in range(gptq.num_layers):
            for batch in images.split(250):
                gptq.model(batch)
            gptq.update()
    return time.perf_counter() - start


def compare_with_brevitas(name: str, original: nn.Module, images: Tensor, backend: Backend) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    round_layers(original, images, IntFormat(4), backend, rounding="gptq")
    ours, our_cpu = time.perf_counter() - start, time.process_time() - cpu
    cpu = time.process_time()
    theirs = brevitas_seconds(original, images)
    their_cpu = time.process_time() - cpu
    print(
        f"calibration_speed: {name}, dense, {len(images)} images, 4 bits: gptq {ours:.1f} s, Brevitas' GPTQ "
        f"{theirs:.1f} s, {theirs / ours:.1f} times; CPU {our_cpu:.1f} and {their_cpu:.1f} s, "
        f"{their_cpu / our_cpu:.1f} times"
    )


def main() -> None:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    name = names[0] if names else "resnet20"
    if name not in JOBS:
        sys.exit(f"calibration_speed: network {name!r}; allowed: {', '.join(JOBS)}")
    job = JOBS[name]
    keep_freed_memory()  # as the program does
    torch.manual_seed(0)
    original = build_model(name, job.classes).eval().to(memory_format=torch.channels_last)
    orders = orders_of(plan_layers(original, parse_config(job.config)))
    model, again = (swap_convolutions(copy.deepcopy(original), orders, "cosine") for _ in range(2))
    images = smooth_noise(job.images, job.size)
    backend = get_backend("brevitas")  # its import takes seconds, once in a process and whatever is rounded
    if "--brevitas" in sys.argv:
        compare_with_brevitas(name, original, images, backend)
        return
    fit_seconds, rounding_seconds = calibrate(model, original, images, backend)
    total = fit_seconds + rounding_seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    profile = cProfile.Profile()  # it slows what it watches
    profiled = sum(profile.runcall(calibrate, again, original, images, backend))
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    spent = {
        part: sum(value[3] for (_, _, function), value in stats.items() if function in functions)
        for part, functions in PARTS.items()
    }
    shares = ", ".join(f"{part} {100 * seconds / profiled:.0f} %" for part, seconds in spent.items())
    print(
        f"calibration_speed: {name}: fit {fit_seconds:.1f} s, gptq {rounding_seconds:.1f} s, "
        f"{total / job.seconds:.2f} of the bound of {job.seconds} s; "
        f"peak {peak:.0f} MB, {peak / job.megabytes:.2f} of {job.megabytes} MB; {shares}"
    )
    if "--functions" in sys.argv:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
