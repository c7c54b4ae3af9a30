"""The page docs/artifact.md, as a reader written from it alone, agrees with ``load`` bit for bit."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer

from basis.parametric.evaluation import reconstruct
from basis.parametric.families import FAMILIES
from basis.series import portable_basis_matrix
from basis.swap import swap_convolutions
from pipeline.artifact import Identity, load, write_artifact
from pipeline.artifact.record import record_network
from pipeline.models import build_model
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.models.weights import load_weights
from pipeline.options.orders import parse_config
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network
from tests.pipeline.artifact import independent_families, independent_reader, independent_stream
from tests.pipeline.artifact.samples import IDENTITY, compressed, parametric, stepped
from tests.support.networks import tiny_network

NAMES = tuple("abcdefghij")


def assert_equal(path: Path, network: nn.Module) -> None:
    header, tensors = independent_reader.read(path)
    state = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert header["classes"] == len(header["class_names"])
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert tensors[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(tensors[name], tensor.numpy(), strict=True, err_msg=name)


def write(model: nn.Module, name: str, config: str, basis: str, bits: int, path: Path) -> None:
    if config != "dense":
        model = swap_convolutions(model, orders_of(plan_layers(model, parse_config(config), name)), basis)
    quantized = quantize_network(model, IntFormat(bits), get_backend("brevitas"))
    identity = Identity(name, 10, NAMES, IDENTITY.mean, IDENTITY.std, (32, 32))
    write_artifact(record_network(model, quantized), identity, path)


def test_the_reader_needs_numpy_and_the_standard_library_only():
    modules = independent_reader, independent_families, independent_stream
    nodes = [node for module in modules for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    own = {"tests.pipeline.artifact"}
    assert {name.split(".")[0] for name in names - own} <= {*sys.stdlib_module_names, "numpy"}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
@pytest.mark.parametrize("scheme", ["int", "minifloat"])
def test_every_width_and_basis(tmp_path, scheme, basis, bits):
    write_artifact(compressed(bits, basis, scheme), IDENTITY, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors", network=tiny_network(seed=3)))


@pytest.mark.parametrize(("scheme", "bits"), [("int", 2), ("int", 8), ("minifloat", 4)])
@pytest.mark.parametrize("basis", independent_families.FAMILIES)
def test_parametric_families(tmp_path, scheme, basis, bits):
    write_artifact(parametric(bits, basis, scheme), IDENTITY, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors", network=tiny_network(seed=3)))


@pytest.mark.parametrize("kernel", [(1, 3), (2, 1), (5, 2), (7, 7)])
@pytest.mark.parametrize("basis", independent_families.FAMILIES)
def test_every_library_gives_the_same_kernels(basis, kernel):
    generator = np.random.default_rng(0)
    stored = generator.normal(0, 3, (40, 25, 1, FAMILIES[basis].values)).astype(np.float32)  # some are out of range
    ours = reconstruct(torch.from_numpy(stored), basis, kernel).numpy()
    np.testing.assert_array_equal(independent_families.filters(stored, basis, kernel), ours, strict=True)


@pytest.mark.parametrize("per_term", [True, False])
def test_steps(tmp_path, per_term):
    write_artifact(stepped(per_term=per_term), IDENTITY, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors", network=tiny_network(seed=3)))


@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
def test_a_large_network(tmp_path, basis):
    torch.manual_seed(0)
    write(build_model("resnet18", 10), "resnet18", "6,3,3,2,2", basis, 4, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors"))


def test_other_normalizations(tmp_path):
    torch.manual_seed(0)
    write(build_model("mobilenet_v3_small", 10), "mobilenet_v3_small", "dense", "cosine", 4, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors"))


def test_buffers(tmp_path):
    """A transformer's buffers hold integers of 64 bits."""
    torch.manual_seed(0)
    network = SwinTransformer([4, 4], 24, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4], num_classes=4)
    assert {buffer.dtype for buffer in network.buffers()} == {torch.int64}
    identity = Identity("notebook.Net", 4, NAMES[:4], (0.0,) * 3, (1.0,) * 3, (32, 32), is_object=True)
    quantized = quantize_network(network, IntFormat(4), get_backend("brevitas"))
    write_artifact(record_network(network, quantized), identity, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors", network=network))


def test_the_uncompressed_network(tmp_path):
    model = build_model("resnet20", 10)
    identity = Identity("resnet20", 10, NAMES, IDENTITY.mean, IDENTITY.std, (32, 32))
    write_artifact(record_network(model, {}), identity, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors"))


def test_a_network_that_only_its_owner_has(tmp_path):
    identity = Identity("notebook.Net", 4, NAMES[:4], (0.0,) * 3, (1.0,) * 3, (12, 12), is_object=True)
    write_artifact(compressed(), identity, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors", network=tiny_network))
    header, _ = independent_reader.read(tmp_path / "a.safetensors")
    assert (header["builder"], header["arguments"], header["model"]) == ("object", {}, "notebook.Net")


@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
@pytest.mark.parametrize("taps", range(1, 33))
def test_every_library_gives_the_same_basis(basis, taps):
    ours = portable_basis_matrix(basis, taps, taps).numpy()
    np.testing.assert_array_equal(independent_reader.matrix(basis, taps, taps), ours)


@pytest.mark.real
@pytest.mark.parametrize("config", ["3,3,3,2", "3,3,2,2", "3,2,2,2", "2,2,2,2"])
@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
def test_the_posters_network(tmp_path, data_folder, config, basis):
    model = build_model("resnet20", 10)
    load_weights(model, data_folder / "resnet20-12fca82f.th")
    write(model, "resnet20", config, basis, 4, tmp_path / "a.safetensors")
    assert_equal(tmp_path / "a.safetensors", load(tmp_path / "a.safetensors"))
