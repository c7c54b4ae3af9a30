"""What a reader of artifacts refuses: damage, claims that do not hold, other networks."""

import json
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from zlib import crc32

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from basis.errors import CompressionError
from pipeline.artifact import load, open_artifact, read_artifact, serialize, write_artifact
from pipeline.artifact.container import join, split
from pipeline.errors import DataError
from tests.pipeline.artifact.samples import IDENTITY, compressed, edited
from tests.support.networks import tiny_network

ROOT = Path(__file__).parents[3]


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
    (lambda h, t, s: layer(t, scheme="minifloat", terms=None), "do not match their checksum"),
    (lambda h, t, s: [entry.update(scheme="minifloat", terms=None) for entry in t["layers"]], "checksum|does not hold"),
    (lambda h, t, s: layer(t, basis="sine"), "basis 'sine'"),
    (lambda h, t, s: layer(t, kernel=[2, 2]), "an order within the kernel"),
    (lambda h, t, s: layer(t, kernel=[2**31, 3]), "not valid: layers.0.kernel.0"),
    (lambda h, t, s: layer(t, kernel=[2**30, 2**30]), "has shape"),
    (lambda h, t, s: t["layers"][0].pop("kernel"), "none of the three"),
    (lambda h, t, s: layer(t, terms=[[0, 0, 0], [0, 0, 0]]), "the terms .* one exponent for each term"),
    (lambda h, t, s: layer(t, terms=[[0, 0], [0, 0], [0, 0]]), "the terms .* one exponent for each term"),
    (lambda h, t, s: layer(t, terms=[[128, 0, 0]] * 3), "not valid: layers.0.terms.0.0"),
    (lambda h, t, s: layer(t, scheme="minifloat", terms=[[0] * 3] * 3), "a series of integers"),
    (lambda h, t, s: t["layers"][2].update(terms=[[0]]), "the terms .* for order None"),
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


def _good(folder: Path) -> Path:
    write_artifact(compressed(), IDENTITY, folder / "good")
    return folder / "good"


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
