"""Refusals of the reader: damage, false claims, other networks."""

import json
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from basis.errors import CompressionError
from pipeline.artifact import file_size, load, open_artifact, read_artifact, serialize, write_artifact
from pipeline.artifact.container import join, split
from pipeline.errors import DataError
from tests.pipeline.artifact.samples import IDENTITY, compressed, edited, recoded, section, stepped
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
    with pytest.raises(DataError, match=r"header.*artifact"):
        read_artifact(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.touch()

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read_artifact(path)


def test_a_file_that_no_reader_accepts_is_not_written(tmp_path, monkeypatch):
    record = stepped()
    monkeypatch.setattr("pipeline.artifact.codec.FREE_INTEGERS", 1)
    monkeypatch.setattr("pipeline.artifact.codec.INTEGERS_PER_BYTE", 1)
    with pytest.raises(CompressionError, match=r"integers in .* bytes"):
        write_artifact(record, IDENTITY, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert file_size(record, IDENTITY) == len(serialize(record, IDENTITY))


def test_every_flipped_bit_is_found():
    content = bytearray(serialize(compressed(2), IDENTITY))
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CompressionError):
            split(BytesIO(content))
        content[bit // 8] ^= 1 << bit % 8


def layer(table, **changes):
    table["layers"][0].update(changes)


STREAM = "entropy-coded stream"
SEVERAL = [
    (lambda h, t, s: h.update(format_version=9), "format version 9; allowed: 2"),
    (lambda h, t, s: h.update(format_version=1), "format version 1; allowed: 2"),
    (lambda h, t, s: h.update(format_version="2"), "no valid header: format_version"),
    (lambda h, t, s: h.update(classes=5), "5 classes and 4 names"),
    (lambda h, t, s: h.update(std=[0.2, 0, 0.2]), "no valid header: std.1"),
    (lambda h, t, s: h.update(mean=[float("nan")] * 3), "no valid header: mean.0"),
    (lambda h, t, s: h.update(surprise=1), "no valid header: surprise"),
    (lambda h, t, s: layer(t, bits=9), "table is not valid: layers.0.bits"),
    (lambda h, t, s: layer(t, bits=None), "number format 'int' and bits None"),
    (lambda h, t, s: layer(t, shape=[8, 3, 4, 4]), STREAM),
    (lambda h, t, s: layer(t, shape=[8, 4, 3, 3]), STREAM),
    (lambda h, t, s: layer(t, shape=[2**30, 2**30, 3, 3]), "integers in .* bytes"),
    (lambda h, t, s: layer(t, shape=[1, 1, 2**31 - 1, 2**31 - 1], kernel=[2**31 - 1] * 2), "integers in .* bytes"),
    (lambda h, t, s: layer(t, shape=[1, 1, 2**10, 2**10], kernel=[2**10] * 2), "groups in .* bytes"),
    (lambda h, t, s: layer(t, shape=[8, 3, 3, 0]), "not valid: layers.0.shape.3"),
    (lambda h, t, s: layer(t, shape=[1] * 400), "not valid: layers.0.shape"),
    (lambda h, t, s: layer(t, scheme="float3"), "number format 'float3' .*; allowed: int, minifloat, stepped"),
    (lambda h, t, s: layer(t, scheme="stepped"), "number format 'stepped' and bits 4"),
    (lambda h, t, s: layer(t, scheme="minifloat"), "exponents of terms"),
    (lambda h, t, s: layer(t, scheme="minifloat", terms=False), STREAM),
    (lambda h, t, s: layer(t, terms=False), STREAM),
    (lambda h, t, s: t["layers"][-1].update(terms=True), "exponents of terms for shape .4, 16."),
    (lambda h, t, s: layer(t, bias=True), STREAM),
    (lambda h, t, s: layer(t, basis="sine"), "basis 'sine'"),
    (lambda h, t, s: layer(t, kernel=[2, 2]), "an order within the kernel"),
    (lambda h, t, s: layer(t, basis="fracsrf"), "allowed: axes 2 and 3 of 1 and 3"),
    (lambda h, t, s: layer(t, basis="fractional", shape=[8, 3, 5, 1]), "allowed: axes 2 and 3 of 1 and 5"),
    (lambda h, t, s: layer(t, kernel=[2**31, 3]), "not valid: layers.0.kernel.0"),
    (lambda h, t, s: layer(t, kernel=[2**30, 2**30]), "has shape"),
    (lambda h, t, s: t["layers"][0].pop("kernel"), "neither basis nor kernel"),
    (lambda h, t, s: t["layers"][-1].update(basis="cosine", kernel=[3, 3]), "a kernel and 4 axes"),
    (lambda h, t, s: layer(t, crc32=1), "table is not valid: layers.0.crc32"),
    (lambda h, t, s: layer(t, name="0.1"), "only one of file and architecture"),
    (lambda h, t, s: s.pop("codes"), "it has no section 'codes'"),
    (lambda h, t, s: t.update(layers=[], normalizations=[]), "it has a section 'codes'"),
    (lambda h, t, s: s.update(codes=s["codes"][:-1]), STREAM),
    (lambda h, t, s: s.update(codes=torch.cat([s["codes"], s["codes"][:1]])), STREAM),
    (lambda h, t, s: s.update(extra=torch.zeros(1)), "but its table names 0"),
    (lambda h, t, s: t.update(tensors=[tensor(dtype="F8")]), "type 'F8'; allowed: F64"),
    (lambda h, t, s: t.update(tensors=[tensor(shape=[2**31 - 1] * 8)]), "does not hold the"),
    (lambda h, t, s: t["normalizations"][0].update(channels=2**31 - 1), "integers in .* bytes"),
    (lambda h, t, s: t["layers"].reverse(), STREAM),
]


def tensor(dtype="F32", shape=(1,)):
    return {"name": "x", "dtype": dtype, "shape": list(shape)}


@pytest.mark.parametrize(("change", "words"), SEVERAL, ids=[words for _, words in SEVERAL])
def test_the_fields_of_a_file_are_checked_beyond_its_checksum(tmp_path, change, words):
    path = edited(tmp_path / "a.safetensors", change)
    with pytest.raises(DataError, match=words) as caught:
        load(path, network=tiny_network())
    assert "\n" not in str(caught.value)


def put(kind, value, group=0, index=0):
    def change(groups):
        groups[kind][group][index] = value

    return change


@pytest.mark.parametrize(
    ("record", "change", "words"),
    [
        (compressed(), put("exponents", 5000), r"layer '0\.0' is damaged: exponents in .*; allowed: -1600..1600"),
        (compressed(), put("scales", -3000), r"layer '0\.0' is damaged: exponents in"),
        (compressed(), put("integers", 8), r"layer '0\.0' is damaged: integers in .*8; allowed: -7..7"),
        (compressed(), put("integers", 2**31 - 1), r"integers in .*2147483647; allowed: -7..7"),
        (compressed(), put("terms", 128), r"term exponents in .*128; allowed: -127..127"),
        (compressed(), put("vectors", 5000), r"exponents in .*; allowed: -1600..1600"),
        (compressed(), put("vectors", 2**31 - 1, 1), "allowed: magnitudes of at most 16777215|integers of a vector"),
        (compressed(), put("vectors", 2**30, 2), "allowed: magnitudes of at most 16777215"),
        (compressed(4, scheme="minifloat"), put("exponents", 128), r"largest exponents in 128..128; allowed: 0..127"),
        (compressed(4, scheme="minifloat"), put("integers", 0), r"distances of exponents in 0"),
        (compressed(4, scheme="minifloat"), put("integers", -(2**31)), r"distances of exponents in .*2147483648"),
        (compressed(4, scheme="minifloat"), put("integers", 8, 1), r"mantissas in .*8; allowed: -8..7"),
        (stepped(), put("integers", 2**24), "allowed: magnitudes of at most 16777215"),
        (stepped(), put("exponents", -1601), r"exponents in .*; allowed: -1600..1600"),
    ],
)
def test_integers_outside_their_range_are_refused(tmp_path, record, change, words):
    with pytest.raises(DataError, match=words):
        read_artifact(recoded(tmp_path / "a.safetensors", record, change))


def test_another_architecture_is_refused(tmp_path):
    write_artifact(compressed(), IDENTITY, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="shape"):
        load(tmp_path / "a.safetensors", network=tiny_network(classes=5))
    with pytest.raises(DataError, match="only one of"):
        load(tmp_path / "a.safetensors", network=nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "resnet19"}, "unknown model 'resnet19'"),
        ({"model": "resnet20"}, "was built by 'import' with .* which this version uses"),
        ({"builder": "object"}, "arguments .* for an object"),
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
    """Lengths of the file and the header, sizes of the unpacked table, of the integers and of the network."""
    (tmp_path / "long").write_bytes((2**62).to_bytes(8, "little") + b"{}" + bytes(100))
    bomb = zlib.compress(bytes(2**28))
    text = json.dumps({**json.loads(open_artifact(good := _good(tmp_path))[1].text)})
    (tmp_path / "bomb").write_bytes(join(text, {"table": section(bomb)}))
    torchvision = {"model": "vgg19", "builder": "torchvision", "arguments": {"num_classes": 4}}
    edited(tmp_path / "vgg", lambda header, table, sections: header.update(torchvision))
    (tmp_path / "sparse").write_bytes(good.read_bytes())
    with (tmp_path / "sparse").open("r+b") as file:
        file.truncate(2**33)
    shape = {"shape": [2**20, 2**8, 3, 3]}  # as many integers as coded zeros may be, and more than the file may have
    edited(tmp_path / "zeros", lambda header, table, sections: table["layers"][0].update(shape))
    paths = [str(tmp_path / name) for name in ("long", "bomb", "vgg", "sparse", "zeros")]
    done = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MB


def test_more_claimed_classes_than_names_fit_the_memory_are_refused(tmp_path):
    path = edited(tmp_path / "a.safetensors", lambda header, *_: header.update(classes=2**22 + 1, class_names=None))
    with pytest.raises(DataError, match="classes"):
        load(path, network=tiny_network())


@pytest.mark.parametrize("size", [[2**31 - 1, 2**31 - 1], [2**16, 2**12], [1, 2**28]])
def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, size):
    path = edited(tmp_path / "a.safetensors", lambda header, *_: header.update(image_size=size))
    with pytest.raises(DataError, match=r"images of \d+ values; allowed: 268435456"):
        load(path, network=tiny_network())
