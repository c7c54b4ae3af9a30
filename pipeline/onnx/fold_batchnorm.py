"""Batch normalization folded into the convolution before it: one factor per output channel, and a bias.

With ``y = gamma (W*x + b - mean) / sqrt(var + eps) + beta`` the factor is ``f = gamma / sqrt(var + eps)``, the new
filters are ``f W`` and the new bias is ``(b - mean) f + beta``. A factor per output channel goes into the scales of a
quantized layer, so its integers stay as they are.
"""

from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[np.float32]
Factors = npt.NDArray[np.float64]

_EPSILON = 1e-5  # the operator's default


def fold_norms(graph: onnx.GraphProto, values: dict[str, Array], weights: Collection[str]) -> dict[str, Factors]:
    """Remove every ``BatchNormalization`` that alone reads a convolution of its own weight.

    Args:
        graph: The graph, changed in place.
        values: Name -> float tensor; new biases replace the normalizations' own, and float weights are multiplied.
        weights: Names of the weights that are stored in another way; they are not in ``values``.

    Returns:
        Name in ``weights`` -> the factors, float64 of shape (out_channels,), that its filters must be multiplied by.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    factors: dict[str, Factors] = {}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = convolutions.get(norm.input[0])
        if conv is None or readers[norm.input[0]] != 1 or readers[conv.input[1]] != 1:
            continue
        if (folded := _folded(conv, norm, values, readers)) is None:
            continue
        weight, (factor, shift) = conv.input[1], folded
        if weight in weights:
            factors[weight] = factor
        elif weight in values:
            values[weight] = (values[weight] * factor.reshape(-1, 1, 1, 1)).astype(np.float32)
        else:
            continue
        values[norm.input[2]] = shift.astype(np.float32)
        conv.input[:] = [conv.input[0], weight, norm.input[2]]
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    return factors


def _folded(
    conv: onnx.NodeProto, norm: onnx.NodeProto, values: dict[str, Array], readers: Counter[str]
) -> tuple[Factors, Factors] | None:
    """Factor and bias, float64; None where a tensor is computed or shared, or a result is not finite in float32."""
    names = [*norm.input[1:], *conv.input[2:]]
    if any(name not in values for name in names) or readers[norm.input[2]] != 1:
        return None
    gamma, beta, mean, variance, *bias = (values[name].astype(np.float64) for name in names)
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), _EPSILON)
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + epsilon)
        shift = ((bias[0] if bias else 0.0) - mean) * factor + beta
        finite = np.isfinite(factor.astype(np.float32)) & np.isfinite(shift.astype(np.float32))
    return (factor, shift) if finite.all() else None
