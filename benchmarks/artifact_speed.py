"""Packing and writing, and loading and materialising, ResNet-18 in 4 bits."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from basis.swap import compressible_convolutions, swap_convolutions
from pipeline.artifact import Identity, load, write_artifact
from pipeline.artifact.record import record_network
from pipeline.models.registry import build_model
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network

ORDERS = {"conv1": 6, "layer1": 3, "layer2": 3, "layer3": 2, "layer4": 2}
CLASSES = 1000
WRITE_BOUND, LOAD_BOUND = 1.0, 0.3  # seconds


def median_seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    torch.manual_seed(0)
    model = build_model("resnet18", CLASSES)
    plan = {name: (ORDERS[name.split(".")[0]],) * 2 for name in compressible_convolutions(model)}
    swap_convolutions(model, plan, "cosine")
    quantized = quantize_network(model, IntFormat(4), get_backend("brevitas"))
    names = tuple(map(str, range(CLASSES)))
    identity = Identity("resnet18", CLASSES, names, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (224, 224))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.safetensors"
        write = median_seconds(lambda: write_artifact(record_network(model, quantized), identity, path))
        read = median_seconds(lambda: load(path))
        megabytes = path.stat().st_size / 1e6
    print(
        f"artifact_speed: pack and write {write:.2f} s ({write / WRITE_BOUND:.2f} of the bound), "
        f"load and materialise {read:.2f} s ({read / LOAD_BOUND:.2f}), {megabytes:.2f} MB"
    )


if __name__ == "__main__":
    main()
