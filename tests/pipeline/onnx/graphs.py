"""Small records and graphs for the tests of ONNX files."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

from basis.swap import swap_convolutions
from pipeline.artifact import Identity
from pipeline.artifact.record import LayerRecord, NetworkRecord, build_network, record_network
from pipeline.onnx.weights import GraphParts
from quant.backends import get_backend
from quant.formats import IntFormat, QuantizedTensor
from quant.grid import nearest_on_grid
from quant.network import quantize_network
from tests.support.networks import tiny_network, with_statistics

ORDERS = {"0.0": (3, 3), "1.0": (2, 2), "2.0": (3, 3)}
IDENTITY = Identity("tiny_net:make", 4, ("a", "b", "c", "d"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (12, 12))
IMAGES = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(7))


def compressed(
    bits: int = 4, basis: str = "cosine", orders: Mapping[str, tuple[int, int]] = ORDERS
) -> tuple[NetworkRecord, nn.Module]:
    """The small network's record, and the dense network of it."""
    model = with_statistics(tiny_network())
    if orders:
        model = swap_convolutions(model, orders, basis)
    record = record_network(model, quantize_network(model, IntFormat(bits), get_backend("brevitas")))
    return record, build_network(record, tiny_network(seed=1))


def layer(bits: int, shape: tuple[int, ...], basis: str | None = None, kernel: tuple[int, int] | None = None):
    """A layer of random integers; its order is the end of its shape."""
    generator, format = torch.Generator().manual_seed(bits), IntFormat(bits)
    integers = torch.randint(format.qmin, format.qmax + 1, shape, generator=generator, dtype=torch.int8)
    scale = nearest_on_grid(0.1 + torch.rand(shape[0], generator=generator))
    order = None if basis is None else (shape[2], shape[3])
    return LayerRecord("conv", QuantizedTensor(integers, scale, format), basis, order, kernel)


def computed(parts: GraphParts, output: str, opset: int) -> np.ndarray:
    """Compute an output of nodes without inputs in onnxruntime."""
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph(parts.nodes, "g", [], [value], list(parts.initializers.values()))
    versions = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=helper.find_min_ir_version_for(versions))
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0]


def run(content: bytes, images: torch.Tensor) -> torch.Tensor:
    """Logits of an ONNX file in a session without any option."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
