"""Pickles that would change a class, or read outside a storage."""

import argparse

import pytest
import torch

from pipeline.errors import DataError
from pipeline.models.weights import load_weights
from tests.support.checkpoints import Net, prefixed


def test_a_class_is_not_changed(tmp_path):
    # BUILD with a class on the stack sets attributes of the class in Python's unpickler.
    change = b"cargparse\nNamespace\n(N}X\x08\x00\x00\x00__init__K\x01stb"
    (tmp_path / "c.pkl").write_bytes(b"\x80\x02}(X\x01\x00\x00\x00a" + change + b"u.")
    with pytest.raises(DataError, match="holds no weights"):
        load_weights(Net(), tmp_path / "c.pkl")
    assert argparse.Namespace(lr=1).lr == 1


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    torch.save(prefixed("", {"w": torch.zeros(4)}), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "c.pt").read_bytes()
    assert content.count(b"K\x04\x85") == 1  # the shape (4,)
    (tmp_path / "c.pt").write_bytes(content.replace(b"K\x04\x85", b"K\xff\x85"))
    with pytest.raises(DataError, match=r"c\.pt.*damaged"):
        load_weights(Net(), tmp_path / "c.pt")
