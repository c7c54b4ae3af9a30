"""From a network's record and its traced graph to the bytes of an ONNX file."""

import json
from typing import Any

import onnx
from onnx import helper, numpy_helper, version_converter
from torch import nn

from pipeline.artifact import Identity
from pipeline.artifact.record import NetworkRecord, stored_tensors
from pipeline.errors import OnnxError
from pipeline.onnx.fold_batchnorm import Array, fold_norms
from pipeline.onnx.trace import OPSET, TracedNetwork, trace
from pipeline.onnx.weights import GraphParts, add_packed, dense, opset_needed

METADATA_KEY = "seriesquant"


def onnx_file(
    traced: TracedNetwork,
    record: NetworkRecord,
    network: nn.Module,
    facts: dict[str, Any],
    *,
    materialize: bool = False,
) -> bytes:
    """Give the bytes of a network's ONNX file; the same network gives the same bytes.

    Args:
        traced: The architecture's graph.
        record: The integers of the quantized layers.
        network: The network that ``build_network`` made of the record.
        facts: What a user of the file needs to know of its inputs and classes; stored as JSON in the metadata.
        materialize: Whether quantized layers are written as plain float32 weights, for runtimes without INT4.

    Raises:
        OnnxError: onnx.checker refuses the result.
    """
    layers = {f"{layer.name}.weight": layer for layer in record.layers}
    proto = _copy(traced, OPSET if materialize else opset_needed(record.layers, OPSET))
    floats = dict(stored_tensors(network))
    quantized = {name: layers[tensor] for name, tensor in traced.tensors.items() if tensor in layers}
    values: dict[str, Array] = {
        name: floats[tensor].detach().cpu().contiguous().numpy()
        for name, tensor in traced.tensors.items()
        if tensor not in layers
    }
    factors = fold_norms(proto.graph, values, quantized)
    parts = GraphParts()
    for name, layer in quantized.items():
        if materialize:
            values[name] = dense(layer, factors.get(name))
        else:
            add_packed(parts, layer, name, factors.get(name))
    _fill(proto, parts, values)
    _name(proto.graph, traced.tensors)
    helper.set_model_props(proto, {METADATA_KEY: json.dumps(facts, ensure_ascii=False, separators=(",", ":"))})
    return _checked(proto)


def _copy(traced: TracedNetwork, opset: int) -> onnx.ModelProto:
    """The traced graph in the opset wanted, with nothing in it that a runtime does not need."""
    proto = onnx.ModelProto()
    proto.CopyFrom(traced.proto if opset == OPSET else version_converter.convert_version(traced.proto, opset))
    proto.producer_name, proto.producer_version, proto.doc_string = "seriesquant", "", ""
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    del proto.metadata_props[:]
    graph = proto.graph
    graph.name, graph.doc_string = "network", ""
    del graph.value_info[:], graph.metadata_props[:], graph.input[1:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        node.name = ""
    return proto


def _fill(proto: onnx.ModelProto, parts: GraphParts, values: dict[str, Array]) -> None:
    """Put the weights' nodes before all others, and store once what some node reads."""
    graph = proto.graph
    nodes = [*parts.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    tensors = [tensor for name, tensor in parts.initializers.items() if name in read]
    tensors += [numpy_helper.from_array(value, name) for name, value in values.items() if name in read]
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names = {t.name: first.setdefault((t.data_type, tuple(t.dims), t.raw_data), t.name) for t in tensors}
    graph.initializer.extend(tensor for tensor in tensors if names[tensor.name] == tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _name(graph: onnx.GraphProto, tensors: dict[str, str]) -> None:
    """Call the network's tensors as the network does."""
    for node in graph.node:
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = tensors.get(tensor.name, tensor.name)


def _checked(proto: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OnnxError(f"onnx: the exported graph is not valid: {str(error).splitlines()[0]}") from error
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


class OnnxExporter:
    """Writes the ONNX files of one architecture, whose graph is traced for the first of them."""

    def __init__(self) -> None:
        self._traced: TracedNetwork | OnnxError | None = None

    def file(
        self, record: NetworkRecord, network: nn.Module, identity: Identity, *, materialize: bool = False
    ) -> bytes:
        """Give the bytes of a network's ONNX file; see ``onnx_file``.

        Raises:
            OnnxError: The network has no ONNX form.
        """
        if self._traced is None:
            try:
                self._traced = trace(network, identity.image_size)
            except OnnxError as error:
                self._traced = error
        if isinstance(self._traced, OnnxError):
            raise self._traced
        return onnx_file(self._traced, record, network, _facts(identity), materialize=materialize)


def _facts(identity: Identity) -> dict[str, Any]:
    """What a user of the file needs: how inputs are normalized, and what the outputs mean."""
    names = ("model", "mean", "std", "class_names")
    return {name: getattr(identity, name) for name in names}
