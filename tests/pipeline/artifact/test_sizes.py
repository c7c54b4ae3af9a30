"""The overhead of a file beyond the entropy of its layers' integers, and the bytes of all other parts."""

import numpy as np
import pytest
import torch

from basis.swap import swap_convolutions
from pipeline.artifact import Identity, serialize
from pipeline.artifact.groups import blocks_of
from pipeline.artifact.record import record_network
from pipeline.models import build_model
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.options.orders import parse_config
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGENET = tuple(map(str, range(1000)))
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sizes(name: str, config: str, names: tuple[str, ...], side: int) -> tuple[int, float]:
    """The size of a file in 4 bits, and the empirical entropy of its layers' integers by term, both in bytes."""
    torch.manual_seed(0)
    model = build_model(name, len(names))
    for module in model.modules():  # weights as after training, rather than uniform ones
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = torch.distributions.Laplace(0.0, 0.05).sample(module.weight.shape)
    model = swap_convolutions(model, orders_of(plan_layers(model, parse_config(config))), "cosine")
    record = record_network(model, quantize_network(model, IntFormat(4), get_backend("brevitas")))
    size = len(serialize(record, Identity(name, len(names), names, *STATISTICS, (side, side))))
    return size, sum(entropy(term) for block in blocks_of(record) for term in block) / 8


def entropy(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


@pytest.mark.parametrize("config", ["3,3,3,2", "3,3,2,2", "3,2,2,2"])
def test_resnet20(config):
    size, least = sizes("resnet20", config, CIFAR10, 32)
    assert size <= 1.09 * least


def test_resnet18():
    size, least = sizes("resnet18", "6,3,3,2,2", IMAGENET, 224)
    assert size <= 1.03 * least
