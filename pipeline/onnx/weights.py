"""Write a layer's weight as ONNX nodes: packed integers, their scales, and the product with the basis.

    integers (O, I, nh nw) INT4 -> DequantizeLinear (axis 0) -> MatMul -> Reshape -> (O, I, kh, kw)
                     scales (O) ---^                         ^          ^
                           transposed kron(Bh, Bw) (nh nw, kh kw)       (0, 0, kh, kw)

O is output channels, I input channels per group, (nh, nw) the order and (kh, kw) the kernel. Bh (kh, nh) and
Bw (kw, nw) are the basis matrices of the two axes. INT4 values are packed two per byte, the first in the low bits.
If the terms have factors or steps, they are multiplied into the matrix. A layer without a series has its integers in
the shape of the weight. Its last node is DequantizeLinear, or a product with the steps of its taps. ONNX has no
minifloats: they are stored as float32 coefficients, without DequantizeLinear. A layer of a parametric family has its
kernels as float32 values: the graph does not evaluate the family.
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
from pipeline.onnx.fold_batchnorm import Array, Factors, times
from quant.formats import SMALLEST_SCALE, QuantizedTensor, term_factors
from quant.grid import grid_values
from quant.minifloat import MinifloatTensor
from quant.packing import pack
from quant.schemes import StoredTensor
from quant.stepped import SteppedTensor

_TYPES = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8, 16: TensorProto.INT16}
_FLOAT_BITS = 32


def onnx_bits(values: StoredTensor) -> int:
    """Return the bits per value in ONNX: the narrowest of 2, 4, 8 and 16 that holds the integers.

    It is 32 for minifloats, and for integers of more than 16 bits. Both are stored as float32 values.
    """
    if isinstance(values, QuantizedTensor):
        needed = values.format.bits
    elif isinstance(values, SteppedTensor):
        needed = int(values.integers.abs().max()).bit_length() + 1
    else:
        needed = _FLOAT_BITS
    return next((width for width in _TYPES if width >= needed), _FLOAT_BITS)


def layer_onnx_bits(layer: LayerRecord) -> int:
    """Return the bits per value of a layer in ONNX; kernels of a parametric family are float32 values."""
    return _FLOAT_BITS if layer.is_parametric else onnx_bits(layer.values)


@dataclass
class GraphParts:
    """The nodes and initializers of a graph; a constant shared by layers is stored once."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Store an array under a name, unless the name is taken; return the name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output


def add_packed(parts: GraphParts, layer: LayerRecord, output: str, factors: Factors | None) -> None:
    """Add the nodes that compute a layer's weight from its integers.

    Args:
        parts: The graph, to which nodes and initializers are added.
        layer: The layer's integers, (O, I, nh, nw) for a series and (O, I, kh, kw) otherwise.
        output: Name of the weight in the graph.
        factors: Factors of the output channels' filters, (out_channels,) float64; None for no factors.
    """
    if layer.is_parametric:
        parts.constant(output, dense(layer, factors))
        return
    if layer.basis is None or layer.order is None or layer.kernel is None:
        _add_values(parts, layer, output, factors, layer.values.integers.shape)
        return
    (order_h, order_w), (height, width) = layer.order, layer.kernel
    flat = (*layer.values.integers.shape[:2], order_h * order_w)
    coefficients = _add_values(parts, layer, f"{layer.name}.coefficients", factors, flat)
    matrix = torch.kron(basis_matrix(layer.basis, height, order_h), basis_matrix(layer.basis, width, order_w))
    name, factors_of_terms = f"{layer.basis}.{height}x{width}.{order_h}x{order_w}", _term_factors(layer.values)
    if factors_of_terms is not None:
        name, matrix = f"{layer.name}.basis", matrix * factors_of_terms.flatten()
    basis = parts.constant(name, matrix.T.numpy().astype(np.float32))
    shape = parts.constant(f"shape.{height}x{width}", np.array([0, 0, height, width], dtype=np.int64))
    parts.node("Reshape", [parts.node("MatMul", [coefficients, basis], f"{layer.name}.filters"), shape], output)


def _add_values(
    parts: GraphParts, layer: LayerRecord, output: str, factors: Factors | None, shape: Sequence[int]
) -> str:
    """Add the stored values times the factors, in a shape; return their name."""
    values, bits = layer.values, onnx_bits(layer.values)
    if bits == _FLOAT_BITS or isinstance(values, MinifloatTensor):
        stored = values.dequantize() if layer.basis is None else _without_term_factors(values)
        return parts.constant(output, _times(stored.numpy(), factors).reshape(shape))
    integers, scale = _multiplied(values, factors)
    name, taps = f"{layer.name}.integers", None if layer.basis is not None else _term_factors(values)
    packed = pack(integers.to(torch.int8 if bits <= 8 else torch.int16), bits).numpy().tobytes()
    parts.initializers[name] = helper.make_tensor(name, _TYPES[bits], list(shape), packed, raw=True)
    scaled = output if taps is None else f"{layer.name}.scaled"
    parts.node("DequantizeLinear", [name, parts.constant(f"{layer.name}.scale", scale)], scaled, axis=0)
    if taps is None:
        return output
    return parts.node("Mul", [scaled, parts.constant(f"{layer.name}.taps", taps.numpy())], output)


def _scale(values: QuantizedTensor | SteppedTensor) -> torch.Tensor:
    """Return the scale of each output channel, float32, (O,): for steps the least step of the layer."""
    if isinstance(values, QuantizedTensor):
        return values.scale
    return grid_values(values.exponents.min()).expand(len(values.integers))


def _term_factors(values: StoredTensor) -> torch.Tensor | None:
    """Return the factors of the terms or taps beside ``_scale``, float32, (nh, nw); None if all are 1."""
    if isinstance(values, QuantizedTensor):
        return None if values.terms is None else term_factors(values.terms)
    if isinstance(values, MinifloatTensor) or values.exponents.numel() == 1:
        return None
    return grid_values(values.exponents - values.exponents.min())


def _without_term_factors(values: StoredTensor) -> torch.Tensor:
    """Return the float32 values divided by ``_term_factors``, which the matrix of the basis has."""
    found, factors = values.dequantize(), _term_factors(values)
    return found if factors is None else found / factors


def _multiplied(values: QuantizedTensor | SteppedTensor, factors: Factors | None) -> tuple[torch.Tensor, Array]:
    """Multiply by the factors: return integers, negated for a negative factor, and positive float32 scales."""
    scale = _scale(values).numpy()
    if factors is None:
        return values.integers, scale
    scale = (scale.astype(np.float64) * np.abs(factors)).astype(np.float32)
    kept = scale >= SMALLEST_SCALE
    signs = torch.from_numpy(np.where(kept, np.sign(factors), 0).astype(np.int8))
    integers = values.integers * signs.reshape(-1, *[1] * (values.integers.ndim - 1))
    return integers, np.where(kept, scale, np.float32(1))


def dense(layer: LayerRecord, factors: Factors | None) -> Array:
    """Return a layer's float32 weight, (O, I, kh, kw), times the factors of its output channels."""
    return _times(layer.weight().numpy(), factors)


def _times(values: Array, factors: Factors | None) -> Array:
    return values if factors is None else times(values, factors)


def opset_needed(layers: Iterable[LayerRecord], default: int) -> int:
    """Return the oldest opset with integers of the layers' widths, at least ``default``."""
    return max([default, *(25 for layer in layers if layer_onnx_bits(layer) == 2)])
