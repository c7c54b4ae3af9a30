"""Inference of ResNet-18 at 6,3,3,2,2 and 4 bits against the dense network, in PyTorch and in onnxruntime.

Random weights: the time does not depend on the values. Ratios are taken within each round, so that what other
processes take from the machine meanwhile cancels; PyTorch and onnxruntime take turns in phases, because the threads of
an onnxruntime session stay awake for a while after a call.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from basis.separable import SeparableConv2d
from basis.swap import compressible_convolutions, swap_convolutions
from pipeline.artifact.execution import with_execution
from pipeline.artifact.record import NetworkRecord, build_network, record_network
from pipeline.models.registry import build_model
from pipeline.onnx.file import onnx_file
from pipeline.onnx.session import open_session, run_session
from pipeline.onnx.trace import trace
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network

ORDERS = {"conv1": 6, "layer1": 3, "layer2": 3, "layer3": 2, "layer4": 2}
CLASSES, SIZE = 1000, 224
ROUNDS = {1: 31, 16: 7}
UNCOUNTED = 2

Calls = Mapping[str, Callable[[], object]]


def compressed() -> NetworkRecord:
    torch.manual_seed(0)
    model = build_model("resnet18", CLASSES)
    plan = {name: (ORDERS[name.split(".")[0]],) * 2 for name in compressible_convolutions(model)}
    swap_convolutions(model, plan, "cosine")
    return record_network(model, quantize_network(model, IntFormat(4), get_backend("brevitas")))


def network_of(record: NetworkRecord, execution: str, images: Tensor) -> nn.Module:
    network = build_network(record, build_model("resnet18", CLASSES)).to(memory_format=torch.channels_last)
    return with_execution(network, record, execution, images).to(memory_format=torch.channels_last).eval()


def torch_calls(record: NetworkRecord, images: Tensor) -> tuple[Calls, int]:
    """Return the original, the loaded network in each execution, and the number of separable layers of ``auto``."""
    images = images.to(memory_format=torch.channels_last)
    networks = {"original": build_model("resnet18", CLASSES).to(memory_format=torch.channels_last).eval()}
    networks |= {execution: network_of(record, execution, images) for execution in ("dense", "auto", "separable")}
    chosen = sum(isinstance(module, SeparableConv2d) for module in networks["auto"].modules())
    return {name: partial(network, images) for name, network in networks.items()}, chosen


def onnx_calls(record: NetworkRecord, images: Tensor) -> tuple[Calls, dict[str, float]]:
    """Return the dense original's file and the compact one with and without folding, and the seconds to load each."""
    original = build_model("resnet18", CLASSES).eval()
    traced = trace(original, (SIZE, SIZE))
    plain = onnx_file(traced, record_network(original, {}), original, {})
    compact = onnx_file(traced, record, build_network(record, build_model("resnet18", CLASSES)), {})
    calls, seconds = {}, {}
    for name, content, fold in (("original", plain, True), ("folded", compact, True), ("unfolded", compact, False)):
        start = time.perf_counter()
        session = open_session(content, fold=fold)
        seconds[name] = time.perf_counter() - start
        calls[name] = partial(run_session, session, images)
    return calls, seconds


def seconds_of(calls: Calls, rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each call in each round, in turns of a few calls whose first ones are not counted.

    The threads of the session that ran before are still awake during the first calls. A first round warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            for _ in range(UNCOUNTED):
                call()
            start = time.perf_counter()
            call()
            if round_ > 0:
                times[name].append(time.perf_counter() - start)
    return times


def against_original(times: Mapping[str, list[float]]) -> str:
    original = times["original"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, original, strict=True))
        for name, values in times.items()
        if name != "original"
    }
    said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return f"{said} of the original's {statistics.median(original) * 1e3:.0f} ms"


@torch.inference_mode()
def main() -> None:
    record = compressed()
    for batch, rounds in ROUNDS.items():
        images = torch.randn(batch, 3, SIZE, SIZE)
        calls, chosen = torch_calls(record, images)
        said = against_original(seconds_of(calls, rounds))
        print(f"inference_speed: batch {batch}, PyTorch: {said}; auto made {chosen} layers separable")
        calls, load = onnx_calls(record, images)
        said = against_original(seconds_of(calls, rounds))
        loads = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in load.items())
        print(f"inference_speed: batch {batch}, onnxruntime: {said}; loading: {loads}")


if __name__ == "__main__":
    main()
