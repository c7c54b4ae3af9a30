"""The graph of a network without its values."""

import copy

import pytest
import torch
from onnxruntime import InferenceSession
from torch import nn

from pipeline.artifact.record import stored_tensors
from pipeline.errors import OnnxError
from pipeline.models.registry import build_model
from pipeline.onnx.trace import trace
from tests.support.networks import tiny_network


def test_every_stored_tensor_is_an_input_and_none_is_in_the_graph():
    model = tiny_network()
    traced = trace(model, (12, 12))
    inputs = [value.name for value in traced.proto.graph.input]
    assert inputs[0] == "input"
    assert set(inputs[1:]) == set(traced.tensors)
    assert set(traced.tensors.values()) == {name for name, _ in stored_tensors(model)}
    assert sum(len(tensor.raw_data) for tensor in traced.proto.graph.initializer) < 200
    assert [value.name for value in traced.proto.graph.output] == ["logits"]


def test_the_batch_is_of_any_size():
    shape = trace(tiny_network(), (12, 12)).proto.graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param
    assert [dim.dim_value for dim in shape.dim[1:]] == [3, 12, 12]


def test_the_network_is_left_as_it_is():
    model = tiny_network().train().to(memory_format=torch.channels_last)
    before = copy.deepcopy(model.state_dict())
    trace(model, (12, 12))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.get_submodule("0.0").weight.is_contiguous(memory_format=torch.channels_last)


def test_a_shared_tensor_is_one_input():
    shared = nn.Conv2d(3, 3, 3)
    traced = trace(nn.Sequential(shared, shared, nn.Flatten()), (12, 12))
    assert sorted(traced.tensors.values()) == ["0.bias", "0.weight"]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_known_networks_have_a_graph_of_onnx_own_operators(name):
    traced = trace(build_model(name, 10), (32, 32))
    assert {node.domain for node in traced.proto.graph.node} == {""}
    assert not traced.proto.functions
    assert [(opset.domain, opset.version) for opset in traced.proto.opset_import] == [("", 21)]


class Looping(nn.Module):
    """Its graph depends on the values of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        while float(y.sum()) > 1:
            y = y / 2
        return y.mean((2, 3))


class OneBatchOnly(nn.Module):
    """It reshapes to a batch of two, whatever comes."""

    def forward(self, x):
        return x.reshape(2, -1)


@pytest.mark.parametrize("model", [Looping(), OneBatchOnly()])
def test_a_network_without_onnx_form_is_refused_in_one_sentence(model, capfd):
    with pytest.raises(OnnxError, match=f"{type(model).__name__}.* ONNX.*: .") as caught:
        trace(model, (12, 12))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "torch.export prints the graph of a network that it refuses"


class Counting(nn.Module):
    """It counts its images by ``len``, which a run of the network does not trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3), nn.Linear(200, 4)

    def forward(self, x):
        return self.fc(self.conv(x).reshape(len(x), -1))


def test_a_network_that_counts_its_images_takes_any_number_of_them():
    model, images = Counting().eval(), torch.randn(5, 3, 12, 12)
    traced = trace(model, (12, 12))
    given = dict(model.named_parameters())
    feeds = {name: given[tensor].detach().numpy() for name, tensor in traced.tensors.items()}
    (found,) = InferenceSession(traced.proto.SerializeToString()).run(None, {"input": images.numpy(), **feeds})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(images))
