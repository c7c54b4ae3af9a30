"""Weights as ONNX nodes, against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto

from basis.series import basis_matrix
from pipeline.artifact.record import LayerRecord
from pipeline.onnx.weights import GraphParts, add_packed, dense, onnx_bits, opset_needed
from quant.minifloat import MinifloatFormat, MinifloatTensor, encode
from quant.stepped import SteppedTensor
from tests.pipeline.onnx.graphs import computed, layer


def reference(record, factors=1.0) -> np.ndarray:
    """B A B^T of integers times scales, in float64."""
    values = record.values.integers.numpy() * record.values.scale.numpy().astype(np.float64)[:, None, None, None]
    values = values * np.reshape(factors, (-1, 1, 1, 1))
    if record.basis is None:
        return values
    left, right = (basis_matrix(record.basis, k, n).numpy() for k, n in zip(record.kernel, record.order, strict=True))
    return left @ values @ right.T


@pytest.mark.parametrize(("bits", "width"), [(2, 2), (3, 4), (4, 4), (5, 8), (6, 8), (7, 8), (8, 8)])
@pytest.mark.parametrize("basis", ["cosine", "chebyshev", None])
def test_onnxruntime_rebuilds_the_filters(bits, width, basis):
    record = layer(bits, (5, 3, 3, 3), basis, None if basis is None else (5, 3))  # 135 values: the last byte is partial
    parts = GraphParts()
    add_packed(parts, record, "w", None)
    np.testing.assert_allclose(computed(parts, "w", opset_needed([record], 21)), reference(record), atol=2e-5)
    assert onnx_bits(record.values) == width


def test_factors_of_terms_go_into_the_matrix_of_their_layer():
    plain = layer(4, (4, 3, 2, 3), "cosine", (3, 5))
    exponents = torch.tensor([[-4, 0, 3], [6, -1, 8]], dtype=torch.int8)
    scaled, parts = replace(plain, name="other", values=replace(plain.values, terms=exponents)), GraphParts()
    add_packed(parts, plain, "plain", None)
    add_packed(parts, scaled, "scaled", None)
    factors = 2.0 ** (exponents.numpy() / 4)
    left, right = (basis_matrix("cosine", k, n).numpy() for k, n in ((3, 2), (5, 3)))
    values = plain.values.integers.numpy() * plain.values.scale.numpy()[:, None, None, None] * factors
    np.testing.assert_allclose(computed(parts, "plain", 21), reference(plain), atol=2e-5)
    np.testing.assert_allclose(computed(parts, "scaled", 21), left @ values @ right.T, atol=1e-4)


def test_the_integers_are_stored_as_bits():
    record, parts = layer(4, (6, 5, 2, 2), "cosine", (3, 3)), GraphParts()
    add_packed(parts, record, "w", None)
    packed = parts.initializers["conv.integers"]
    assert (packed.data_type, list(packed.dims), len(packed.raw_data)) == (TensorProto.INT4, [6, 5, 4], 60)
    codes = np.frombuffer(packed.raw_data, np.uint8)
    values = np.stack([codes & 15, codes >> 4], 1).ravel().astype(np.int8)
    assert np.array_equal(np.where(values > 7, values - 16, values), record.values.integers.numpy().ravel())
    assert [node.op_type for node in parts.nodes] == ["DequantizeLinear", "MatMul", "Reshape"]


def test_factors_go_into_scales_that_stay_positive_and_signs():
    record, parts = layer(4, (4, 3, 2, 2), "chebyshev", (3, 3)), GraphParts()
    factors = np.array([2.0, -0.5, 0.0, 1e-40])
    add_packed(parts, record, "w", factors)
    expected = reference(record, factors)
    np.testing.assert_allclose(computed(parts, "w", 21), expected, atol=1e-6)
    scales = np.frombuffer(parts.initializers["conv.scale"].raw_data, np.float32)
    assert (scales > 0).all()
    np.testing.assert_allclose(dense(record, factors), expected, atol=1e-6)


def test_minifloats_are_float32_values():
    record = layer(4, (4, 3, 2, 2), "cosine", (3, 3))
    format, factors = MinifloatFormat(4), np.array([2.0, -0.5, 0.0, 1.0])
    values = MinifloatTensor(encode(torch.randn(4, 3, 2, 2), format), format)
    record, parts = replace(record, values=values), GraphParts()
    add_packed(parts, record, "w", factors)
    assert onnx_bits(values) == 32
    assert [node.op_type for node in parts.nodes] == ["MatMul", "Reshape"]
    expected = record.weight().numpy() * factors.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(computed(parts, "w", opset_needed([record], 21)), expected, atol=1e-5)


def test_layers_share_the_basis_and_the_shape():
    parts = GraphParts()
    for name in ("a", "b"):
        record = layer(4, (4, 3, 2, 2), "cosine", (3, 3))
        add_packed(parts, type(record)(name, record.values, record.basis, record.order, record.kernel), name, None)
    assert set(parts.initializers) == {
        *["a.integers", "a.scale", "b.integers", "b.scale"],
        *["cosine.3x3.2x2", "shape.3x3"],
    }


def test_only_two_bits_need_a_newer_opset():
    assert [opset_needed([layer(bits, (2, 2))], 21) for bits in (2, 3, 4, 8)] == [25, 21, 21, 21]
    assert opset_needed([], 21) == 21


@pytest.mark.parametrize(("largest", "width"), [(1, 2), (7, 4), (8, 8), (127, 8), (128, 16), (40_000, 32)])
@pytest.mark.parametrize("basis", ["cosine", None])
@pytest.mark.parametrize("signs", [None, np.array([2.0, -0.5, 1.0, 3.0])])
def test_integers_with_a_step_per_term_take_the_narrowest_type(largest, width, basis, signs):
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-largest, largest + 1, (4, 3, 3, 3), generator=generator, dtype=torch.int32)
    integers[0, 0, 0, 0] = largest
    exponents = torch.randint(-90, -50, (3, 3), generator=generator).to(torch.int16)
    order = None if basis is None else (3, 3)
    record = LayerRecord("conv", SteppedTensor(integers, exponents), basis, order, order)
    parts = GraphParts()
    add_packed(parts, record, "w", signs)
    values = (
        integers.numpy() * 2.0 ** (exponents.numpy() / 16) * np.reshape(1.0 if signs is None else signs, (-1, 1, 1, 1))
    )
    matrix = np.eye(3) if basis is None else basis_matrix(basis, 3, 3).numpy()
    expected = matrix @ values @ matrix.T
    found = computed(parts, "w", opset_needed([record], 21))
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    assert onnx_bits(record.values) == width


def test_a_linear_layer_has_one_step():
    values = SteppedTensor(torch.tensor([[3, -4], [0, 7]], dtype=torch.int32), torch.tensor(-16, dtype=torch.int16))
    parts = GraphParts()
    add_packed(parts, LayerRecord("fc", values), "w", None)
    np.testing.assert_array_equal(computed(parts, "w", 21), [[1.5, -2], [0, 3.5]])
