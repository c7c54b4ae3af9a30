"""Files that are no checkpoints: the error says what they are."""

import pickle
import zipfile

import pytest

from pipeline.artifact import write_artifact
from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.pipeline.artifact.samples import IDENTITY, compressed
from tests.support.checkpoints import Net


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b'{"metadata":', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"<!DOCTYPE html>", "HTML"),
    ],
)
def test_other_formats_are_named(tmp_path, start, words):
    (tmp_path / "c.pt").write_bytes(start + bytes(100))
    with pytest.raises(DataError, match=rf"c\.pt.*{words}.*safetensors"):
        load_weights(Net(), tmp_path / "c.pt")


def test_another_zip_and_a_folder_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/weights.json", "{}")
    with pytest.raises(DataError, match=r"zip.*data\.pkl.*torch\.export"):
        load_weights(Net(), tmp_path / "c.zip")
    with pytest.raises(DataError, match=r"folder without.*model\.safetensors"):
        load_weights(Net(), tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 1}}'],
)
def test_a_damaged_index_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(DataError, match=r"index\.json.*damaged"):
        load_weights(Net(), tmp_path)


def test_lists_that_hold_themselves_or_one_another_have_an_end(tmp_path):
    endless = [{"epoch": 1}]
    endless.append(endless)
    first, second = [], {"epoch": 1}
    first.append(first)
    nested = [{"epoch": 1}]
    for _ in range(9):
        nested = [nested] * 16
    for content in (endless, nested, {"model": second, "history": first}):
        (tmp_path / "c.pt").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"no weights|more than"):
            load_weights(Net(), tmp_path / "c.pt")


def test_an_artifact_is_no_checkpoint(tmp_path):
    write_artifact(compressed(8), IDENTITY, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"a\.safetensors.*compressed network.*export"):
        load_weights(Net(), tmp_path / "a.safetensors")
