"""Build the bytes of an ONNX file from a network's record and its traced graph.

The steps are: trace once, copy, fold batch normalization, add packed weights, name the tensors, check, serialize.
"""

import json
from typing import Any, Final

import onnx
import torch
from onnx import helper, numpy_helper, version_converter
from torch import nn

from pipeline.artifact import Identity
from pipeline.artifact.record import NetworkRecord, stored_tensors
from pipeline.errors import OnnxError
from pipeline.onnx.fold_batchnorm import Array, fold_batch_norms
from pipeline.onnx.trace import OPSET, TracedNetwork, trace
from pipeline.onnx.weights import GraphParts, add_packed, dense, opset_needed

METADATA_KEY: Final = "seriesquant"
_TYPES: Final = {torch.float64: onnx.TensorProto.DOUBLE, torch.float16: onnx.TensorProto.FLOAT16}
"""Types of quantized weights other than float32. A weight is computed in float32 and then converted."""


class OnnxExporter:
    """Write the ONNX files of one architecture; its graph is traced once, for the first file."""

    def __init__(self) -> None:
        self._traced: TracedNetwork | OnnxError | None = None

    def file(
        self, record: NetworkRecord, network: nn.Module, identity: Identity, *, materialize: bool = False
    ) -> bytes:
        """Return the bytes of a network's ONNX file.

        Args:
            record: The network as it is stored.
            network: The network that ``build_network`` made of the record.
            identity: Its model name, normalization, image size and class names.
            materialize: See ``onnx_file``.

        Raises:
            OnnxError: The network cannot be exported. Later calls raise the same error without a new trace.
        """
        if self._traced is None:
            try:
                self._traced = trace(network, identity.image_size, identity.channels)
            except OnnxError as error:
                self._traced = error
        if isinstance(self._traced, OnnxError):
            raise self._traced
        return onnx_file(self._traced, record, network, _input_metadata(identity), materialize=materialize)


def _input_metadata(identity: Identity) -> dict[str, Any]:
    """Return the metadata that a user needs to prepare inputs and read outputs."""
    names = ("model", "mean", "std", "class_names")
    return {name: getattr(identity, name) for name in names}


def onnx_file(
    traced: TracedNetwork,
    record: NetworkRecord,
    network: nn.Module,
    input_metadata: dict[str, Any],
    *,
    materialize: bool = False,
) -> bytes:
    """Return the bytes of a network's ONNX file; equal networks have equal bytes.

    Args:
        traced: The architecture's graph.
        record: The network as it is stored, with the integers of the quantized layers.
        network: The network that ``build_network`` made of the record.
        input_metadata: Normalization of the inputs and names of the classes, stored as JSON under ``METADATA_KEY``.
        materialize: True to write quantized layers as plain float32 weights, for runtimes without INT4.

    Raises:
        OnnxError: ``onnx.checker`` rejects the file, or onnxruntime has no operators for the type of a parameter.
    """
    _check_types(traced, network)
    layers = {layer.tensor_name: layer for layer in record.layers}
    proto = _copy(traced, OPSET if materialize else opset_needed(record.layers, OPSET))
    floats = dict(stored_tensors(network))
    quantized = {name: layers[tensor] for name, tensor in traced.tensors.items() if tensor in layers}
    values: dict[str, Array] = {
        name: floats[tensor].detach().cpu().contiguous().numpy()
        for name, tensor in traced.tensors.items()
        if tensor not in layers
    }
    factors = fold_batch_norms(proto.graph, values, quantized)
    parts = GraphParts()
    for name, layer in quantized.items():
        dtype = floats[traced.tensors[name]].dtype
        if materialize:
            values[name] = torch.from_numpy(dense(layer, factors.get(name))).to(dtype).numpy()
        elif dtype == torch.float32:
            add_packed(parts, layer, name, factors.get(name))
        else:
            add_packed(parts, layer, f"{name}.float32", factors.get(name))
            parts.node("Cast", [f"{name}.float32"], name, to=_TYPES[dtype])
    _add_weights(proto, parts, values)
    _rename_tensors(proto.graph, traced.tensors)
    helper.set_model_props(proto, {METADATA_KEY: json.dumps(input_metadata, ensure_ascii=False, separators=(",", ":"))})
    return _serialize_checked(proto)


def _check_types(traced: TracedNetwork, network: nn.Module) -> None:
    """Check that onnxruntime has operators for the types of the parameters.

    Raises:
        OnnxError: It does not, or the weight of a convolution is float64.
    """
    types = {name: tensor.dtype for name, tensor in stored_tensors(network)}
    for name, dtype in types.items():
        if dtype == torch.bfloat16:
            raise OnnxError(f"the tensor {name!r} is bfloat16, for which onnxruntime has no operators on the CPU")
    for node in traced.proto.graph.node:
        weight = traced.tensors.get(node.input[1], "") if node.op_type in ("Conv", "ConvTranspose") else ""
        if types.get(weight) == torch.float64:
            raise OnnxError(f"the tensor {weight!r} is float64, for which onnxruntime has no convolution on the CPU")


def _copy(traced: TracedNetwork, opset: int) -> onnx.ModelProto:
    """Copy the traced graph in an opset, without names, documentation and shapes that no runtime needs."""
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


def _add_weights(proto: onnx.ModelProto, parts: GraphParts, values: dict[str, Array]) -> None:
    """Insert the weights' nodes first, and store the tensors that some node reads; equal tensors are stored once."""
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


def _rename_tensors(graph: onnx.GraphProto, tensors: dict[str, str]) -> None:
    """Replace the exporter's names of tensors by their names in the network, except those that other values have."""
    values = [part.name for part in (*graph.input, *graph.output, *graph.initializer)]
    taken = {*values, *(name for node in graph.node for name in node.output)}
    names = {name: own for name, own in tensors.items() if own not in taken}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _serialize_checked(proto: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OnnxError(f"onnx: the exported graph is not valid: {str(error).splitlines()[0]}") from error
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
