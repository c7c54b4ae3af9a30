"""Whole files: their logits, what they hold, and what they do not."""

import json
import math

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from basis.swap import swap_convolutions
from pipeline.artifact.record import NetworkRecord, build_network, record_network
from pipeline.errors import OnnxError
from pipeline.models.registry import build_model
from pipeline.onnx.file import METADATA_KEY, onnx_file
from pipeline.onnx.trace import TracedNetwork, trace
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network
from tests.pipeline.onnx.graphs import IMAGES, compressed, run
from tests.support.networks import tiny_network, with_statistics


@pytest.fixture(scope="module")
def traced():
    return trace(tiny_network(), (12, 12))


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
@pytest.mark.parametrize("materialize", [False, True])
def test_the_logits_are_those_of_the_network(traced, bits, basis, materialize):
    record, network = compressed(bits, basis)
    content = onnx_file(traced, record, network, {}, materialize=materialize)
    for count in (1, 3, 5):
        torch.testing.assert_close(run(content, IMAGES[:count]), network(IMAGES[:count]), rtol=1e-4, atol=1e-5)


def test_compressed_weights_are_in_the_file_as_integers_only(traced):
    record, network = compressed()
    graph = onnx.load_from_string(onnx_file(traced, record, network, {})).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for layer in record.layers:
        tensor, count = stored[f"{layer.name}.integers"], layer.values.integers.numel()
        assert tensor.data_type == TensorProto.INT4
        assert len(tensor.raw_data) == math.ceil(count / 2)
        assert f"{layer.name}.weight" not in stored
    floats = sum(math.prod(t.dims) for t in stored.values() if t.data_type == TensorProto.FLOAT)
    bases, biases = 9 * 25 + 4 * 9 + 9 * 9, 8 + 8 + 12 + 16 + 4
    scales = sum(layer.values.scale.numel() for layer in record.layers)
    assert floats == bases + scales + biases


def test_the_graph_is_that_of_the_documentation(traced):
    record, network = compressed()
    graph = onnx.load_from_string(onnx_file(traced, record, network, {})).graph
    made = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    chains = []
    for node in convolutions:
        chain, source = [], node.input[1]
        while source not in stored:
            chain.append(made[source].op_type)
            source = made[source].input[0]
        chains.append(chain[::-1])
    series = ["DequantizeLinear", "MatMul", "Reshape"]
    assert chains == [series, series, ["DequantizeLinear"], series]
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_a_materialized_file_has_plain_floats(traced):
    record, network = compressed(2)
    proto = onnx.load_from_string(onnx_file(traced, record, network, {}, materialize=True))
    assert {tensor.data_type for tensor in proto.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert "DequantizeLinear" not in {node.op_type for node in proto.graph.node}
    assert proto.opset_import[0].version == 21


@pytest.mark.parametrize(("bits", "kind", "opset"), [(2, "INT2", 25), (3, "INT4", 21), (5, "INT8", 21)])
def test_a_width_that_onnx_lacks_takes_the_next(traced, bits, kind, opset):
    proto = onnx.load_from_string(onnx_file(traced, *compressed(bits), {}))
    types = {TensorProto.DataType.Name(t.data_type) for t in proto.graph.initializer if t.name.endswith(".integers")}
    assert types == {kind}
    assert proto.opset_import[0].version == opset


def test_equal_networks_give_equal_bytes_and_the_traced_graph_stays(traced):
    before = traced.proto.SerializeToString(deterministic=True)
    first, second = (onnx_file(traced, *compressed(), {"model": "m"}) for _ in range(2))
    assert first == second
    assert traced.proto.SerializeToString(deterministic=True) == before


def test_the_file_has_the_given_metadata_and_no_other(traced):
    proto = onnx.load_from_string(onnx_file(traced, *compressed(), {"mean": [0.5], "class_names": ["ä"]}))
    assert {p.key: json.loads(p.value) for p in proto.metadata_props} == {
        METADATA_KEY: {"mean": [0.5], "class_names": ["ä"]}
    }
    assert not proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string or node.name for node in proto.graph.node)


def test_a_network_without_quantized_layers_is_written_in_float(traced):
    network = with_statistics(tiny_network())
    content = onnx_file(traced, record_network(network, {}), network, {})
    torch.testing.assert_close(run(content, IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_graph_that_is_not_valid_is_refused(traced):
    broken = onnx.ModelProto()
    broken.CopyFrom(traced.proto)
    broken.graph.node.append(helper.make_node("Relu", ["nothing"], ["more"]))
    with pytest.raises(OnnxError, match=r"graph.* valid: ."):
        onnx_file(TracedNetwork(broken, traced.tensors), *compressed(), {})


def test_a_real_size_is_within_a_tenth_of_its_bits():
    """ResNet-20 at 4 bits: packed values, and 40 kB for scales, biases, names and nodes."""
    model = build_model("resnet20", 10)
    plan = {name: (2, 2) for name, module in model.named_modules() if getattr(module, "kernel_size", None) == (3, 3)}
    swapped = swap_convolutions(model, plan, "cosine")
    record = record_network(swapped, quantize_network(swapped, IntFormat(4), get_backend("brevitas")))
    network = build_network(record, build_model("resnet20", 10))
    size = len(onnx_file(trace(network, (32, 32)), record, network, {}))
    assert size <= 1.1 * sum(layer.values.integers.numel() for layer in record.layers) / 2 + 40_000


def test_a_tensor_in_bfloat16_has_no_file(traced):
    record, network = compressed()
    network.register_buffer("table", torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(OnnxError, match="'table' is bfloat16"):
        onnx_file(traced, record, network, {})


class Parts(nn.Module):
    """A network of which one layer has another type, with the casts around it."""

    def __init__(self, part: str, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        self.get_submodule(part).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv, self.norm):
            x = layer(x.to(layer.weight.dtype)).float().relu()
        return self.head(x.mean((2, 3)).to(self.head.weight.dtype)).float()


def mixed(part: str, dtype: torch.dtype) -> tuple[NetworkRecord, nn.Module]:
    model = Parts(part, dtype).eval()
    swapped = swap_convolutions(model, {"conv": (2, 2)}, "cosine") if part != "conv" else model
    record = record_network(swapped, quantize_network(swapped, IntFormat(4), get_backend("brevitas")))
    return record, build_network(record, Parts(part, dtype).eval())


@pytest.mark.parametrize("materialize", [False, True])
@pytest.mark.parametrize(
    ("part", "dtype"),
    [
        ("head", torch.float64),
        ("head", torch.float16),
        ("norm", torch.float64),
        ("norm", torch.float16),
        ("conv", torch.float16),
    ],
)
def test_a_layer_of_another_type_has_a_file(part, dtype, materialize):
    record, network = mixed(part, dtype)
    content = onnx_file(trace(network, (12, 12)), record, network, {}, materialize=materialize)
    torch.testing.assert_close(run(content, IMAGES), network(IMAGES), rtol=2e-3, atol=2e-3)


def test_a_convolution_in_float64_is_named():
    record, network = mixed("conv", torch.float64)
    with pytest.raises(OnnxError, match=r"'conv.weight' is float64, for which onnxruntime has no convolution"):
        onnx_file(trace(network, (12, 12)), record, network, {})


class OwnNames(nn.Module):
    """A network whose tensors have the names of values in the graph: an operator's, an output's and a scale's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.logits = nn.Parameter(torch.ones(4))
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.head.scale = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x - self.mean).relu().mean((2, 3))) * self.head.scale + self.logits


def test_tensors_may_have_the_names_of_other_values():
    torch.manual_seed(0)
    model = OwnNames().eval()
    record = record_network(model, quantize_network(model, IntFormat(4), get_backend("brevitas")))
    network = build_network(record, OwnNames())
    content = onnx_file(trace(network, (12, 12)), record, network, {})
    torch.testing.assert_close(run(content, IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)
    assert "conv.bias" in {tensor.name for tensor in onnx.load_from_string(content).graph.initializer}
