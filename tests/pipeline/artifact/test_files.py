"""The artifact: exact round trips, and what loading needs."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from torch import nn

from basis.errors import CompressionError
from pipeline.artifact import Identity, load, open_artifact, plan_stream, read_artifact, serialize, write_artifact
from pipeline.artifact.header import read_header
from pipeline.artifact.record import NetworkRecord, build_network, record_network
from pipeline.artifact.summary import layer_bits
from pipeline.artifact.vectors import BIAS_ERROR
from pipeline.errors import OptionsError
from pipeline.models.registry import build_model
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network
from tests.pipeline.artifact.samples import IDENTITY, compressed, stepped
from tests.support.networks import tiny_network

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
@pytest.mark.parametrize("scheme", ["int", "minifloat"])
def test_a_written_network_loads_with_identical_logits_and_dense_convolutions(tmp_path, bits, basis, scheme):
    record = compressed(bits, basis, scheme)
    measured = build_network(record, tiny_network(seed=1))
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", network=tiny_network(seed=2))
    x = torch.randn(5, 3, 12, 12)
    assert torch.equal(loaded(x), measured(x))
    assert {type(module) for module in loaded.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d}


@pytest.mark.parametrize("per_term", [True, False])
def test_integers_with_steps_load_with_identical_logits(tmp_path, per_term):
    record = stepped(per_term=per_term)
    measured = build_network(record, tiny_network(seed=1))
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    x = torch.randn(5, 3, 12, 12)
    assert torch.equal(load(tmp_path / "a.safetensors", network=tiny_network(seed=2))(x), measured(x))


def test_biases_are_within_their_error():
    model = tiny_network()
    model[5].bias.data *= 100
    record = record_network(model, quantize_network(model, IntFormat(4), get_backend("brevitas")))
    assert record.floats == {}
    for layer in record.layers:
        if layer.bias is not None:
            exact = model.get_submodule(layer.name).bias.detach()
            assert float((layer.bias.dequantize() - exact).abs().max()) <= BIAS_ERROR * float(exact.abs().max())
    assert [layer.name for layer in record.layers if layer.bias is not None] == ["1.0", "1.2", "2.0", "5"]


def test_a_bias_that_is_not_finite_is_kept_as_it_is(tmp_path):
    model = tiny_network()
    model[5].bias.data[1] = float("nan")
    record = record_network(model, quantize_network(model, IntFormat(4), get_backend("brevitas")))
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", network=tiny_network(seed=2))
    assert torch.equal(loaded[5].bias.view(torch.int32), model[5].bias.view(torch.int32))


def test_the_file_shrinks_with_its_bits():
    sizes = [len(serialize(compressed(bits), IDENTITY)) for bits in (8, 4)]
    stored = sum(layer.values.integers.numel() for layer in compressed().layers)
    assert sizes[0] - sizes[1] == pytest.approx(stored / 2, rel=0.15)


def test_a_layer_of_zeros_takes_almost_nothing():
    record = compressed()
    zeros = [
        replace(layer, values=replace(layer.values, integers=torch.zeros_like(layer.values.integers)))
        for layer in record.layers
    ]
    of_zeros = NetworkRecord(tuple(zeros), record.floats, record.normalizations)
    bits = layer_bits(of_zeros, plan_stream(of_zeros))
    assert all(layer.integers <= 16 * len(layer.terms) for layer in bits.values())


@pytest.mark.parametrize("names", [("0", "1", "2", "3"), ("1", "0", "2", "3"), ("0", "1", "2", "03")])
def test_class_names_that_are_numbers_come_back(tmp_path, names):
    path = tmp_path / "a.safetensors"
    write_artifact(compressed(), replace(IDENTITY, class_names=names), path)
    assert read_artifact(path)[1].class_names == names


def test_the_same_network_gives_the_same_bytes():
    assert serialize(compressed(), IDENTITY) == serialize(compressed(), IDENTITY)


def test_the_file_is_a_safetensors_file_without_names_of_layers_in_its_header(tmp_path):
    path = tmp_path / "a.safetensors"
    write_artifact(compressed(), IDENTITY, path)
    with safetensors.safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["seriesquant"])["model"] == "tiny_net:make"
        assert file.get_tensor("codes").dtype == np.uint8
        assert set(file.keys()) == {"codes", "table", "check"}


def test_the_uncompressed_network_keeps_every_tensor_exactly(tmp_path):
    model = tiny_network()
    model[0][1].running_mean.normal_()
    write_artifact(record_network(model, {}), IDENTITY, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", network=tiny_network(seed=2))
    own = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in own.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.int16, torch.bool, torch.uint8])
def test_other_types_and_scalars_come_back(tmp_path, dtype):
    tensors = {"a": torch.tensor([[0, 1], [1, 0]], dtype=dtype), "b": torch.tensor(1, dtype=dtype)}
    tensors |= {"c": torch.zeros(0, 3, dtype=dtype), "d": torch.tensor([1.5])}
    write_artifact(NetworkRecord((), tensors), IDENTITY, tmp_path / "a.safetensors")
    again = read_artifact(tmp_path / "a.safetensors")[0].floats
    assert {name: (t.dtype, t.tolist()) for name, t in again.items()} == {
        name: (t.dtype, t.tolist()) for name, t in tensors.items()
    }


def test_a_type_that_no_file_can_hold_is_refused():
    with pytest.raises(CompressionError, match=r"'a' has type torch\.complex64; allowed: F64, "):
        serialize(NetworkRecord((), {"a": torch.zeros(1, dtype=torch.complex64)}), IDENTITY)


def test_shared_layers_and_unused_batch_counters(tmp_path):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.BatchNorm2d(3), shared)
    record = record_network(model, quantize_network(model, IntFormat(8), get_backend("torch.ao")))
    assert [layer.name for layer in record.layers] == ["0"]
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    other = nn.Conv2d(3, 3, 3, padding=1)
    loaded = load(tmp_path / "a.safetensors", network=nn.Sequential(other, nn.BatchNorm2d(3), other))
    assert loaded[0] is loaded[2]
    assert torch.equal(loaded[0].weight, record.layers[0].weight())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v3_small", "swin_t"])
def test_a_known_network_is_rebuilt_from_its_name_in_the_same_state(tmp_path, name):
    """Swin keeps index tables in buffers, and has layer normalization."""
    torch.manual_seed(0)
    model = build_model(name, 4).eval()
    record = record_network(model, quantize_network(model, IntFormat(4), get_backend("brevitas")))
    identity = Identity(name, 4, IDENTITY.class_names, IDENTITY.mean, IDENTITY.std, (64, 64))
    write_artifact(record, identity, tmp_path / "a.safetensors")
    loaded, expected = load(tmp_path / "a.safetensors"), build_network(record, build_model(name, 4))
    assert not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(x), expected(x))


@pytest.mark.parametrize("quantized", [True, False])
def test_a_network_that_was_built_in_inference_mode_is_filled(quantized):
    model = tiny_network()
    formats = quantize_network(model, IntFormat(8), get_backend("brevitas")) if quantized else {}
    record = record_network(model, formats)
    with torch.inference_mode():
        architecture = tiny_network(seed=1)
    loaded, expected = build_network(record, architecture), build_network(record, tiny_network(seed=1))
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in expected.state_dict().items())
    assert not any(tensor.is_inference() for tensor in expected.parameters())
    expected(torch.zeros(2, 3, 12, 12)).sum().backward()


def test_a_file_loads_under_any_default_device(tmp_path):
    record = record_network(build_model("resnet20", 4), {})
    identity = Identity("resnet20", 4, IDENTITY.class_names, IDENTITY.mean, IDENTITY.std, (32, 32))
    write_artifact(record, identity, tmp_path / "a.safetensors")
    with torch.device("meta"):
        loaded = load(tmp_path / "a.safetensors", execution="auto")
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}


def test_loading_leaves_the_random_numbers_and_the_collector_alone(tmp_path):
    model = build_model("resnet20", 4)
    identity = Identity("resnet20", 4, IDENTITY.class_names, IDENTITY.mean, IDENTITY.std, (32, 32))
    write_artifact(record_network(model, {}), identity, tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    load(tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert gc.isenabled()


def test_a_module_named_by_the_file_is_imported_only_when_allowed(tmp_path):
    write_artifact(compressed(), IDENTITY, tmp_path / "a.safetensors")
    with pytest.raises(OptionsError, match="import"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_other_numbers_of_channels_come_back(tmp_path, channels):
    mean, std = (tuple((place + 1) / 20 for place in range(channels)) for _ in range(2))
    path = tmp_path / "a.safetensors"
    write_artifact(compressed(), replace(IDENTITY, mean=mean, std=std), path)
    identity = read_artifact(path)[1]
    assert (identity.mean, identity.std, identity.channels) == (mean, std, channels)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5, 0.5]), ([], []), ([0.5], [0.0]), (["a"], [1.0])])
def test_a_normalization_that_is_none_is_refused(tmp_path, mean, std):
    write_artifact(compressed(), IDENTITY, tmp_path / "a.safetensors")
    header, _ = open_artifact(tmp_path / "a.safetensors")
    text = json.dumps(header.model_dump() | {"mean": mean, "std": std})
    with pytest.raises(CompressionError, match=r"(mean|std).*allowed"):
        read_header(text)
