"""A layer's weight as ONNX nodes: packed integers, their scales, and the product with the basis.

    integers (O, I, nh nw) INT4 -> DequantizeLinear (axis 0) -> MatMul -> Reshape -> (O, I, kh, kw)
                     scales (O) ---^                         ^          ^
                           transposed kron(Bh, Bw) (nh nw, kh kw)       (0, 0, kh, kw)

Where terms have factors, these are in the matrix' rows.
A layer without series has its integers in the weight's own shape and ends at DequantizeLinear. Minifloats, which ONNX
has no type for, are float32 coefficients in the place of integers and DequantizeLinear.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from basis.series import basis_matrix
from pipeline.artifact.record import LayerRecord
from pipeline.onnx.fold_batchnorm import Array, Factors
from quant.formats import SMALLEST_SCALE, QuantizedTensor, term_factors
from quant.packing import pack
from quant.schemes import StoredTensor

_TYPES = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}


def onnx_bits(values: StoredTensor) -> int:
    """The width that ONNX stores values in: the narrowest integer that holds them, or 32 for floats."""
    if not isinstance(values, QuantizedTensor):
        return 32
    return next(width for width in _TYPES if width >= values.format.bits)


@dataclass
class GraphParts:
    """Nodes and initializers in the making; what layers share is stored once."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Store an array under a name, unless it is there; returns the name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node of one output; returns the output's name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output


def add_packed(parts: GraphParts, layer: LayerRecord, output: str, factors: Factors | None) -> None:
    """Add the nodes that compute a layer's weight from its integers.

    Args:
        parts: Where nodes and initializers go.
        layer: The layer's integers, and its basis where they are coefficients.
        output: Name of the weight in the graph.
        factors: What the output channels' filters are multiplied by, float64 (out_channels,); None for nothing.
    """
    if layer.basis is None or layer.order is None or layer.kernel is None:
        _add_values(parts, layer, output, factors, layer.values.integers.shape)
        return
    (order_h, order_w), (height, width) = layer.order, layer.kernel
    flat = (*layer.values.integers.shape[:2], order_h * order_w)
    coefficients = _add_values(parts, layer, f"{layer.name}.coefficients", factors, flat)
    matrix = torch.kron(basis_matrix(layer.basis, height, order_h), basis_matrix(layer.basis, width, order_w))
    name, terms = f"{layer.basis}.{height}x{width}.{order_h}x{order_w}", layer.values.terms
    if terms is not None:
        name, matrix = f"{layer.name}.basis", matrix * term_factors(terms).flatten()
    basis = parts.constant(name, matrix.T.numpy().astype(np.float32))
    shape = parts.constant(f"shape.{height}x{width}", np.array([0, 0, height, width], dtype=np.int64))
    parts.node("Reshape", [parts.node("MatMul", [coefficients, basis], f"{layer.name}.filters"), shape], output)


def _add_values(
    parts: GraphParts, layer: LayerRecord, output: str, factors: Factors | None, shape: Sequence[int]
) -> str:
    """The stored values times the factors, in that shape; returns the name they have then."""
    values = layer.values
    if not isinstance(values, QuantizedTensor):
        return parts.constant(output, _times(values.dequantize().numpy(), factors).reshape(shape))
    integers, scale = _multiplied(values, factors)
    name, bits = f"{layer.name}.integers", onnx_bits(values)
    packed = pack(integers, bits).numpy().tobytes()
    parts.initializers[name] = helper.make_tensor(name, _TYPES[bits], list(shape), packed, raw=True)
    return parts.node("DequantizeLinear", [name, parts.constant(f"{layer.name}.scale", scale)], output, axis=0)


def _multiplied(values: QuantizedTensor, factors: Factors | None) -> tuple[torch.Tensor, Array]:
    """Integers and positive scales of the values times the factors: a negative factor turns the integers' signs."""
    if factors is None:
        return values.integers, values.scale.numpy()
    scale = (values.scale.double().numpy() * np.abs(factors)).astype(np.float32)
    kept = scale >= SMALLEST_SCALE
    signs = torch.from_numpy(np.where(kept, np.sign(factors), 0).astype(np.int8))
    integers = values.integers * signs.reshape(-1, *[1] * (values.integers.ndim - 1))
    return integers, np.where(kept, scale, np.float32(1))


def dense(layer: LayerRecord, factors: Factors | None) -> Array:
    """A layer's float32 weight, times the factors."""
    return _times(layer.weight().numpy(), factors)


def _times(values: Array, factors: Factors | None) -> Array:
    if factors is None:
        return values
    return (values * factors.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)


def opset_needed(layers: Iterable[LayerRecord], default: int) -> int:
    """The oldest opset with integers of the layers' widths."""
    return max([default, *(25 for layer in layers if onnx_bits(layer.values) == 2)])
