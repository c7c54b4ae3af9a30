"""The artifact: exact round trips, refusal of damage, atomic writing."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from basis.errors import CompressionError
from basis.swap import swap_convolutions
from pipeline.artifact import HEADER_KEY, Identity, load, read_artifact, serialize, write_artifact
from pipeline.errors import DataError, OptionsError
from pipeline.network_record import build_network, record_network
from pipeline.quantization import quantize_network
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.schemes import get_format
from tests.pipeline.networks import tiny_network

IDENTITY = Identity("tiny_net:make", 4, ("a", "b", "c", "d"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
ORDERS = {"0.0": (3, 3), "1.0": (2, 2), "2.0": (3, 3)}


def compressed(bits: int = 4, basis: str = "cosine", scheme: str = "int"):
    model = swap_convolutions(tiny_network(), ORDERS, basis)
    return record_network(model, quantize_network(model, get_format(scheme, bits), get_backend("brevitas")))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("basis", ["cosine", "chebyshev"])
@pytest.mark.parametrize("scheme", ["int", "minifloat"])
def test_a_written_network_loads_with_identical_logits_and_dense_convolutions(tmp_path, bits, basis, scheme):
    record = compressed(bits, basis, scheme)
    measured = build_network(record, tiny_network(seed=1))
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", model=tiny_network(seed=2))
    x = torch.randn(5, 3, 12, 12)
    assert torch.equal(loaded(x), measured(x))
    assert {type(module) for module in loaded.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d}


def test_the_filters_are_the_series_of_the_stored_integers(tmp_path):
    """An independent numpy reconstruction from the file's tensors."""
    write_artifact(compressed(8), IDENTITY, tmp_path / "a.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    integers = tensors["packed/2.0"].numpy().view(np.int8).reshape(16, 12, 3, 3)
    values = integers * tensors["scale/2.0"].numpy()[:, None, None, None]
    grid = np.linspace(0.2 * np.pi, 0.8 * np.pi, 3)
    basis = np.cos(np.outer(grid, np.arange(3)))
    weight = load(tmp_path / "a.safetensors", model=tiny_network(seed=2)).get_submodule("2.0").weight
    np.testing.assert_allclose(weight.detach().numpy(), basis @ values @ basis.T, atol=1e-6)


def test_minifloats_are_stored_without_scales(tmp_path):
    """An independent numpy reading of the 12-bit patterns: sign, exponent, mantissa."""
    write_artifact(compressed(4, scheme="minifloat"), IDENTITY, tmp_path / "a.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert not [name for name in tensors if name.startswith("scale/")]
    stream = np.unpackbits(tensors["packed/5"].numpy(), bitorder="little")[: 4 * 16 * 12].reshape(4, 16, 12)
    mantissa, exponent = stream[..., :4] @ [1, 2, 4, 8], stream[..., 4:11] @ (2 ** np.arange(7))
    values = (-1.0) ** stream[..., 11] * 2.0 ** (exponent - 63.0) * (1 + mantissa / 16)
    assert exponent.min() > 0
    weight = load(tmp_path / "a.safetensors", model=tiny_network(seed=2)).get_submodule("5").weight
    np.testing.assert_array_equal(weight.detach().numpy(), values)
    np.testing.assert_allclose(values, tiny_network().get_submodule("5").weight.detach().numpy(), rtol=2**-5)


def test_the_file_shrinks_with_its_bits(tmp_path):
    sizes = [len(serialize(compressed(bits), IDENTITY)) for bits in (8, 4)]
    stored = sum(layer.values.integers.numel() for layer in compressed().layers)
    assert sizes[0] - sizes[1] == pytest.approx(stored / 2, abs=8 * 5)


def test_the_same_network_gives_the_same_bytes():
    assert serialize(compressed(), IDENTITY) == serialize(compressed(), IDENTITY)


def test_shared_layers_and_unused_batch_counters(tmp_path):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.BatchNorm2d(3), shared)
    record = record_network(model, quantize_network(model, IntFormat(8), get_backend("torch.ao")))
    assert [layer.name for layer in record.layers] == ["0"]
    write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    other = nn.Conv2d(3, 3, 3, padding=1)
    loaded = load(tmp_path / "a.safetensors", model=nn.Sequential(other, nn.BatchNorm2d(3), other))
    assert loaded[0] is loaded[2]
    assert torch.equal(loaded[0].weight, record.layers[0].weight())


def test_a_module_named_by_the_file_is_imported_only_when_allowed(tmp_path):
    write_artifact(compressed(), IDENTITY, tmp_path / "a.safetensors")
    with pytest.raises(OptionsError, match="import"):
        load(tmp_path / "a.safetensors")


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path / "none.safetensors")
    content = serialize(compressed(), IDENTITY)
    path = tmp_path / "a.safetensors"
    for cut in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match="cannot be read"):
            read_artifact(path)
    safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="no valid header"):
        read_artifact(path)


def resaved(path: Path, change) -> Path:
    """Write an artifact whose header and tensors ``change`` has edited."""
    write_artifact(compressed(), IDENTITY, path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
    tensors = safetensors.torch.load_file(path)
    change(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {HEADER_KEY: json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header, tensors: header.update(format_version=9), "format version 9"),
        (lambda header, tensors: header["layers"][0].update(bits=9), "no valid header"),
        (lambda header, tensors: header["layers"][0].update(shape=[8, 3, 4, 4]), "damaged"),
        (lambda header, tensors: header["layers"][0].update(scheme="float"), "no number format named 'float'"),
        (lambda header, tensors: header["layers"][0].update(scheme="minifloat"), "damaged"),
        (lambda header, tensors: tensors.pop("scale/0.0"), "got no scale"),
        (lambda header, tensors: tensors["scale/0.0"].fill_(float("nan")), "damaged"),
        (lambda header, tensors: tensors["scale/0.0"].zero_(), "damaged"),
        (lambda header, tensors: tensors.pop("packed/0.0"), "damaged"),
        (lambda header, tensors: tensors.update(extra=torch.zeros(1)), "does not name"),
        (lambda header, tensors: header["layers"][0].update(basis="sine"), "sine"),
    ],
)
def test_damage_is_refused_in_one_sentence(tmp_path, change, words):
    path = resaved(tmp_path / "a.safetensors", change)
    with pytest.raises(CompressionError, match=words) as caught:
        load(path, model=tiny_network())
    assert "\n" not in str(caught.value)


def test_another_architecture_is_refused(tmp_path):
    write_artifact(compressed(), IDENTITY, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="shape"):
        load(tmp_path / "a.safetensors", model=tiny_network(classes=5))
    with pytest.raises(DataError, match="only one of"):
        load(tmp_path / "a.safetensors", model=nn.Sequential(nn.Linear(2, 2)))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reports.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_artifact(compressed(), IDENTITY, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
