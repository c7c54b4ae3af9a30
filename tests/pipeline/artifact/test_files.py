"""The artifact: exact round trips, refusal of damage, atomic writing."""

import gc
import json
import subprocess
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from basis.errors import CompressionError
from pipeline.artifact import Identity, load, open_artifact, read_artifact, serialize, write_artifact
from pipeline.artifact.container import join, split
from pipeline.errors import DataError, OptionsError
from pipeline.models.registry import build_model
from pipeline.network_record import NetworkRecord, build_network, record_network
from pipeline.quantization import quantize_network
from quant.backends import get_backend
from quant.formats import IntFormat
from tests.pipeline.artifact.samples import IDENTITY, compressed, edited
from tests.pipeline.networks import tiny_network

ROOT = Path(__file__).parents[3]


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


def test_minifloats_are_patterns_without_scales(tmp_path):
    """An independent numpy reading of the last layer's 12-bit patterns: sign, exponent, mantissa."""
    write_artifact(compressed(4, scheme="minifloat"), IDENTITY, tmp_path / "a.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert "scales" not in tensors
    stream = np.unpackbits(tensors["codes"].numpy()[-4 * 16 * 12 // 8 :], bitorder="little").reshape(4, 16, 12)
    mantissa, exponent = stream[..., :4] @ [1, 2, 4, 8], stream[..., 4:11] @ (2 ** np.arange(7))
    values = (-1.0) ** stream[..., 11] * 2.0 ** (exponent - 63.0) * (1 + mantissa / 16)
    assert exponent.min() > 0
    weight = load(tmp_path / "a.safetensors", model=tiny_network(seed=2)).get_submodule("5").weight
    np.testing.assert_array_equal(weight.detach().numpy(), values)
    np.testing.assert_allclose(values, tiny_network().get_submodule("5").weight.detach().numpy(), rtol=2**-5)


def test_the_file_shrinks_with_its_bits():
    sizes = [len(serialize(compressed(bits), IDENTITY)) for bits in (8, 4)]
    stored = sum(layer.values.integers.numel() for layer in compressed().layers)
    assert sizes[0] - sizes[1] == pytest.approx(stored / 2, abs=8 * 5)


def test_the_same_network_gives_the_same_bytes():
    assert serialize(compressed(), IDENTITY) == serialize(compressed(), IDENTITY)


def test_the_file_is_a_safetensors_file_without_names_of_layers_in_its_header(tmp_path):
    path = tmp_path / "a.safetensors"
    write_artifact(compressed(), IDENTITY, path)
    with safetensors.safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["seriesquant"])["model"] == "tiny_net:make"
        assert file.get_tensor("codes").dtype == np.uint8
        assert set(file.keys()) == {"scales", "tensors.F32", "normalization.F16", "codes", "table", "check"}


def test_the_uncompressed_network_keeps_every_tensor_exactly(tmp_path):
    model = tiny_network()
    model[0][1].running_mean.normal_()
    write_artifact(record_network(model, {}), IDENTITY, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors", model=tiny_network(seed=2))
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
    loaded = load(tmp_path / "a.safetensors", model=nn.Sequential(other, nn.BatchNorm2d(3), other))
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


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path / "none.safetensors")
    content = serialize(compressed(), IDENTITY)
    path = tmp_path / "a.safetensors"
    for cut in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match="damaged or no artifact"):
            read_artifact(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DataError, match="its header claims"):
        read_artifact(path)
    safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="its header is not that of an artifact"):
        read_artifact(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.touch()

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read_artifact(path)


def test_every_flipped_bit_is_found():
    content = bytearray(serialize(compressed(2), IDENTITY))
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CompressionError):
            split(BytesIO(content))
        content[bit // 8] ^= 1 << bit % 8


def layer(table, **changes):
    table["layers"][0].update(changes)


SEVERAL = [
    (lambda h, t, s: h.update(format_version=9), "format version 9; allowed: 1"),
    (lambda h, t, s: h.update(format_version="1"), "no valid header: format_version"),
    (lambda h, t, s: h.update(classes=5), "5 classes and 4 names"),
    (lambda h, t, s: h.update(std=[0.2, 0, 0.2]), "no valid header: std.1"),
    (lambda h, t, s: h.update(mean=[float("nan")] * 3), "no valid header: mean.0"),
    (lambda h, t, s: h.update(surprise=1), "no valid header: surprise"),
    (lambda h, t, s: layer(t, bits=9), "table is not valid: layers.0.bits"),
    (lambda h, t, s: layer(t, shape=[8, 3, 4, 4]), "shape"),
    (lambda h, t, s: layer(t, shape=[2**30, 2**30, 3, 3]), "does not hold the"),
    (lambda h, t, s: layer(t, shape=[8, 3, 3, 0]), "not valid: layers.0.shape.3"),
    (lambda h, t, s: layer(t, shape=[1] * 400), "not valid: layers.0.shape"),
    (lambda h, t, s: layer(t, scheme="float3"), "number format 'float3' is unknown; allowed: int, minifloat"),
    (lambda h, t, s: layer(t, scheme="minifloat"), "do not match their checksum"),
    (lambda h, t, s: [entry.update(scheme="minifloat") for entry in t["layers"]], "checksum|does not hold"),
    (lambda h, t, s: layer(t, basis="sine"), "basis 'sine'"),
    (lambda h, t, s: layer(t, kernel=[2, 2]), "an order within the kernel"),
    (lambda h, t, s: layer(t, kernel=[2**31, 3]), "not valid: layers.0.kernel.0"),
    (lambda h, t, s: layer(t, kernel=[2**30, 2**30]), "has shape"),
    (lambda h, t, s: t["layers"][0].pop("kernel"), "none of the three"),
    (lambda h, t, s: layer(t, crc32=1), "do not match their checksum"),
    (lambda h, t, s: layer(t, name="0.1"), "only one of file and architecture"),
    (lambda h, t, s: s["scales"].fill_(float("nan")), "do not match their checksum"),
    (lambda h, t, s: s.pop("codes"), "does not hold the"),
    (lambda h, t, s: s.update(codes=s["codes"][:-1]), "does not hold the"),
    (lambda h, t, s: s.update(codes=torch.cat([s["codes"], s["codes"][:1]])), "but its table names"),
    (lambda h, t, s: s.update(extra=torch.zeros(1)), "but its table names 0"),
    (lambda h, t, s: t["tensors"][0].update(dtype="F8"), "type 'F8'; allowed: F64"),
    (lambda h, t, s: t["tensors"][0].update(shape=[2**31 - 1] * 8), "does not hold the"),
    (lambda h, t, s: t["normalizations"][0].update(channels=2**31 - 1), "does not hold the"),
    (lambda h, t, s: t["layers"].reverse(), "checksum|does not hold"),
]


@pytest.mark.parametrize(("change", "words"), SEVERAL, ids=[words for _, words in SEVERAL])
def test_what_a_file_claims_is_checked_beyond_its_checksum(tmp_path, change, words):
    path = edited(tmp_path / "a.safetensors", change)
    with pytest.raises(DataError, match=words) as caught:
        load(path, model=tiny_network())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-38])
def test_scales_that_are_no_scales_are_refused(tmp_path, value):
    def change(header, table, sections):
        sections["scales"][0] = value
        entry = table["layers"][0]
        codes = sections["codes"][: 8 * 3 * 3 * 3 // 2]
        entry["crc32"] = crc32(bytes(sections["scales"][:8].numpy().data), crc32(bytes(codes.numpy().data)))

    path = edited(tmp_path / "a.safetensors", change)
    with pytest.raises(DataError, match=r"its layer '0\.0' is damaged: The scale has values"):
        load(path, model=tiny_network())


def test_a_normalization_that_is_not_finite_is_refused(tmp_path):
    def change(header, table, sections):
        values = sections["normalization.F16"]
        values[0] = float("inf")
        table["normalizations"][0]["crc32"] = crc32(bytes(values[:16].numpy().data))

    with pytest.raises(DataError, match=r"normalization '0\.1' holds NaN or infinity"):
        read_artifact(edited(tmp_path / "a.safetensors", change))


def test_another_architecture_is_refused(tmp_path):
    write_artifact(compressed(), IDENTITY, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="shape"):
        load(tmp_path / "a.safetensors", model=tiny_network(classes=5))
    with pytest.raises(DataError, match="only one of"):
        load(tmp_path / "a.safetensors", model=nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "resnet19"}, "unknown model 'resnet19'"),
        ({"model": "resnet20"}, "was built by 'import' with .* which this version uses"),
        ({"model": "vgg16", "builder": "torchvision", "arguments": {"num_classes": 4}}, "only one of file and arch"),
    ],
)
def test_the_builder_must_be_one_that_this_version_has(tmp_path, changes, words):
    path = edited(tmp_path / "a.safetensors", lambda header, table, sections: header.update(changes))
    with pytest.raises(DataError, match=words):
        load(path)


MEMORY = """
import resource, sys
from pipeline.artifact import load
from pipeline.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load(path)
    except DataError:
        continue
    sys.exit("loaded")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_claims_of_gigabytes_take_no_memory(tmp_path):
    """By the file's length, the header's, the table's when it is unpacked, and the network's."""
    (tmp_path / "long").write_bytes((2**62).to_bytes(8, "little") + b"{}" + bytes(100))
    bomb = zlib.compress(bytes(2**28))
    text = json.dumps({**json.loads(open_artifact(good := _good(tmp_path))[1].text)})
    (tmp_path / "bomb").write_bytes(join(text, {"table": torch.frombuffer(bytearray(bomb), dtype=torch.uint8)}))
    torchvision = {"model": "vgg19", "builder": "torchvision", "arguments": {"num_classes": 4}}
    edited(tmp_path / "vgg", lambda header, table, sections: header.update(torchvision))
    (tmp_path / "sparse").write_bytes(good.read_bytes())
    with (tmp_path / "sparse").open("r+b") as file:
        file.truncate(2**33)
    paths = [str(tmp_path / name) for name in ("long", "bomb", "vgg", "sparse")]
    done = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MB


def _good(folder: Path) -> Path:
    write_artifact(compressed(), IDENTITY, folder / "good")
    return folder / "good"


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


WRITER = """
import sys
from pathlib import Path
from reports.files import write_atomically
versions = [Path(name).read_bytes() for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    for version in versions:
        write_atomically(Path(sys.argv[1]), version)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    """SIGKILL at moments that differ; what is under the artifact's name is always one whole version of it."""
    for value in (1.0, 2.0):
        record = NetworkRecord((), {"a": torch.full((500_000,), value)})
        write_artifact(record, IDENTITY, tmp_path / f"version{value}")
    versions = [str(tmp_path / f"version{value}") for value in (1.0, 2.0)]
    path = tmp_path / "out" / "a.safetensors"
    for delay in (0.0, 0.003, 0.011, 0.05):
        command = [sys.executable, "-c", WRITER, str(path), *versions]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(delay)
            process.kill()
        if path.exists():
            assert read_artifact(path)[0].floats["a"].unique().tolist() in ([1.0], [2.0])
    assert all(other == path or other.name.endswith(".part") for other in path.parent.glob("*"))


def test_an_unwritable_folder_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_artifact(compressed(), IDENTITY, tmp_path / "file" / "a.safetensors")
    assert (tmp_path / "file").read_bytes() == b""
