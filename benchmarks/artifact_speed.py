"""Coding and writing, and loading and materialising, ResNet-18 in 4 bits; and the file's size beside the entropy."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from basis.swap import compressible_convolutions, swap_convolutions
from pipeline.artifact import Identity, load, write_artifact
from pipeline.artifact.groups import blocks_of
from pipeline.artifact.record import NetworkRecord, record_network
from pipeline.models.registry import build_model
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network

ORDERS = {"conv1": 6, "layer1": 3, "layer2": 3, "layer3": 2, "layer4": 2}
CLASSES = 1000
WRITE_BOUND, LOAD_BOUND = 3.0, 0.7  # seconds


def median_seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def entropy_bytes(record: NetworkRecord) -> float:
    """Empirical entropy of the layers' integers, by layer and term."""
    bits = 0.0
    for term in (term for block in blocks_of(record) for term in block):
        counts = np.unique(term, return_counts=True)[1]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / 8


def main() -> None:
    torch.manual_seed(0)
    model = build_model("resnet18", CLASSES)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # weights as after training, rather than uniform ones
            module.weight.data = torch.distributions.Laplace(0.0, 0.05).sample(module.weight.shape)
    plan = {name: (ORDERS[name.split(".")[0]],) * 2 for name in compressible_convolutions(model)}
    swap_convolutions(model, plan, "cosine")
    quantized = quantize_network(model, IntFormat(4), get_backend("brevitas"))
    names = tuple(map(str, range(CLASSES)))
    identity = Identity("resnet18", CLASSES, names, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (224, 224))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.safetensors"
        write = median_seconds(lambda: write_artifact(record_network(model, quantized), identity, path))
        read = median_seconds(lambda: load(path))
        size = path.stat().st_size
    overhead = size / entropy_bytes(record_network(model, quantized)) - 1
    print(
        f"artifact_speed: code and write {write:.2f} s ({write / WRITE_BOUND:.2f} of the bound), "
        f"load and materialise {read:.2f} s ({read / LOAD_BOUND:.2f}), {size / 1e6:.2f} MB, "
        f"{100 * overhead:.2f} % more than the entropy of the integers"
    )


if __name__ == "__main__":
    main()
