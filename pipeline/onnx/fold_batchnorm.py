"""Fold batch normalization into the convolution before it: one factor per output channel, and a bias.

    y = gamma (W*x + b - mean) / sqrt(var + eps) + beta = (f W)*x + (b - mean) f + beta,  f = gamma / sqrt(var + eps)

Here ``W`` (O, I, kh, kw) and ``b`` (O,) are the convolution's weight and bias, ``x`` is its input and ``*`` the
convolution. ``gamma``, ``beta``, ``mean`` and ``var``, each (O,), belong to the normalization, and ``eps`` is its
epsilon. In a quantized layer the factor ``f`` (O,) is multiplied into the scales, so its integers do not change
except in sign.
"""

from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[np.float32]
Factors = npt.NDArray[np.float64]

_EPSILON = 1e-5  # default of the operator BatchNormalization


def fold_batch_norms(graph: onnx.GraphProto, values: dict[str, Array], weights: Collection[str]) -> dict[str, Factors]:
    """Fold every ``BatchNormalization`` that is the only reader of a convolution whose weight has no other reader.

    Args:
        graph: The graph, changed in place.
        values: Name -> float32 tensor, changed in place. A new bias replaces the ``beta`` of its normalization, and
            a float weight is multiplied by its factors.
        weights: Names of the quantized weights, which are not in ``values``.

    Returns:
        Name in ``weights`` -> factors of the output channels, (out_channels,) float64, not yet applied.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    factors: dict[str, Factors] = {}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = convolutions.get(norm.input[0])
        if conv is None or readers[norm.input[0]] != 1 or readers[conv.input[1]] != 1:
            continue
        if (folded := _factor_and_bias(conv, norm, values, readers)) is None:
            continue
        weight, (factor, shift) = conv.input[1], folded
        if weight in weights:
            factors[weight] = factor
        elif weight in values:
            values[weight] = times(values[weight], factor)
        else:
            continue
        values[norm.input[2]] = shift.astype(np.float32)
        conv.input[:] = [conv.input[0], weight, norm.input[2]]
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    return factors


def times(values: Array, factors: Factors) -> Array:
    """Multiply by one factor per output channel, which is axis 0: float32, for any number of axes."""
    return (values * factors.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)


def _factor_and_bias(
    conv: onnx.NodeProto, norm: onnx.NodeProto, values: dict[str, Array], readers: Counter[str]
) -> tuple[Factors, Factors] | None:
    """Return factor and bias, float64; None if an input is computed, shared or not float32, or a result overflows."""
    names = [*norm.input[1:], *conv.input[2:]]
    if any(name not in values for name in names) or readers[norm.input[2]] != 1:
        return None
    if any(values[name].dtype != np.float32 for name in names):
        return None
    gamma, beta, mean, variance, *bias = (values[name].astype(np.float64) for name in names)
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), _EPSILON)
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + epsilon)
        shift = ((bias[0] if bias else 0.0) - mean) * factor + beta
        finite = np.isfinite(factor.astype(np.float32)) & np.isfinite(shift.astype(np.float32))
    return (factor, shift) if finite.all() else None
