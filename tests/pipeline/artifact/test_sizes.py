"""How little a file holds besides params x bits / 8."""

import pytest
import torch

from basis.swap import swap_convolutions
from pipeline.artifact import Identity, serialize
from pipeline.artifact.record import record_network
from pipeline.models import build_model
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.options.orders import parse_config
from quant.backends import get_backend
from quant.counting import count_params
from quant.formats import IntFormat
from quant.network import quantize_network

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGENET = tuple(f"n{number:08}" for number in range(1000))
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sizes(name: str, config: str, bits: int, names: tuple[str, ...], side: int) -> tuple[int, float]:
    """The file's size in bytes, and the share of it beyond params x bits / 8."""
    torch.manual_seed(0)
    model = build_model(name, len(names))
    model = swap_convolutions(model, orders_of(plan_layers(model, parse_config(config))), "cosine")
    record = record_network(model, quantize_network(model, IntFormat(bits), get_backend("brevitas")))
    size = len(serialize(record, Identity(name, len(names), names, *STATISTICS, (side, side))))
    return size, size / (count_params(model) * bits / 8) - 1


@pytest.mark.parametrize("config", ["3,3,3,2", "3,3,2,2", "3,2,2,2", "2,2,2,2"])
def test_resnet20_in_4_bits(config):
    assert sizes("resnet20", config, 4, CIFAR10, 32)[1] <= 0.12


@pytest.mark.parametrize(("bits", "most"), [(4, 3_100_000), (8, 6_100_000)])
def test_resnet18(bits, most):
    size, overhead = sizes("resnet18", "6,3,3,2,2", bits, IMAGENET, 224)
    assert size <= most
    assert overhead <= 0.04
