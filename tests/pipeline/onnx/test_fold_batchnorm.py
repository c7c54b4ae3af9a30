"""Folding of batch normalization in a graph."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.onnx.fold_batchnorm import fold_batch_norms

RNG = np.random.default_rng(0)
NORM = ["gamma", "beta", "mean", "var"]
X = RNG.normal(size=(2, 3, 6, 6)).astype(np.float32)


def tensors(**changes) -> dict[str, np.ndarray]:
    values = {name: RNG.normal(size=4).astype(np.float32) for name in ("gamma", "beta", "mean", "bias")}
    values["var"] = RNG.uniform(0.5, 2, 4).astype(np.float32)
    values["weight"] = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    return values | changes


def graph(nodes, values) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 3, 6, 6])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )


def conv_norm(conv_inputs=("x", "weight"), **attributes) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", list(conv_inputs), ["c"]),
        helper.make_node("BatchNormalization", ["c", *NORM], ["y"], **attributes),
    ]


def result(g: onnx.GraphProto, values) -> np.ndarray:
    filled = graph(list(g.node), values)
    return ReferenceEvaluator(helper.make_model(filled, opset_imports=[helper.make_opsetid("", 21)])).run(
        None, {"x": X}
    )[0]


@pytest.mark.parametrize("inputs", [("x", "weight"), ("x", "weight", "bias")])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_a_float_weight_takes_the_factor(inputs, epsilon):
    values = tensors()
    g = graph(conv_norm(inputs, epsilon=epsilon), values)
    expected = result(g, values)
    assert fold_batch_norms(g, values, ()) == {}
    assert [node.op_type for node in g.node] == ["Conv"]
    np.testing.assert_allclose(result(g, values), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4, 3, 3, 3), (4, 1, 3, 3, 3)])
def test_a_float_weight_of_other_axes_takes_the_factor_of_its_output_channels(shape):
    values = tensors(weight=RNG.normal(size=shape).astype(np.float32))
    factor, weight = values["gamma"] / np.sqrt(values["var"] + 1e-5), values["weight"]
    fold_batch_norms(graph(conv_norm(), values), values, ())
    assert values["weight"].shape == shape
    for channel in range(4):
        np.testing.assert_allclose(values["weight"][channel], weight[channel] * factor[channel], rtol=1e-5)


def test_the_factor_of_a_stored_weight_is_returned():
    values = tensors()
    g = graph(conv_norm(), values)
    expected, weight = result(g, values), values.pop("weight")
    factors = fold_batch_norms(g, values, {"weight"})
    np.testing.assert_allclose(factors["weight"], values["gamma"] / np.sqrt(values["var"] + 1e-5), rtol=1e-5)
    values["weight"] = (weight * factors["weight"].reshape(-1, 1, 1, 1)).astype(np.float32)
    np.testing.assert_allclose(result(g, values), expected, atol=1e-5)


def unchanged(nodes, values) -> None:
    g = graph(nodes, values)
    before = g.SerializeToString()
    assert fold_batch_norms(g, values, ()) == {}
    assert g.SerializeToString() == before


def test_a_convolution_with_another_reader_keeps_its_normalization():
    unchanged(
        [
            *conv_norm()[:1],
            helper.make_node("BatchNormalization", ["c", *NORM], ["n"]),
            helper.make_node("Add", ["c", "n"], ["y"]),
        ],
        tensors(),
    )


def test_a_shared_weight_or_shift_keeps_its_normalizations():
    second = [helper.make_node("Conv", ["x", "weight"], ["d"]), helper.make_node("Add", ["y1", "d"], ["y"])]
    first = conv_norm()
    first[1].output[0] = "y1"
    unchanged([*first, *second], tensors())
    shared = conv_norm()
    shared[1].output[0] = "y1"
    unchanged([*shared, helper.make_node("Mul", ["y1", "beta"], ["y"])], tensors(beta=np.ones(4, np.float32)))


def test_a_normalization_that_follows_no_convolution_stays():
    values = tensors()
    values["weight"] = RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("BatchNormalization", ["r", *NORM], ["y"]),
    ]
    unchanged(nodes, values)


def test_a_factor_that_float32_cannot_hold_is_not_folded():
    unchanged(conv_norm(epsilon=0.0), tensors(var=np.zeros(4, np.float32)))


def test_a_computed_weight_is_not_folded():
    values = tensors()
    g = graph([helper.make_node("Neg", ["weight"], ["w"]), *conv_norm(("x", "w"))], values)
    assert fold_batch_norms(g, values, ()) == {}
    assert len(g.node) == 3
