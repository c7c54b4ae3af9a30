"""The loader of each source; the digits; torchvision's CIFAR folders."""

import pytest
import torch

from pipeline.data import load_dataset
from pipeline.errors import DataError, OptionsError
from tests.support.datasets import contents


def test_digits():
    data = load_dataset("digits")
    assert (data.name, data.classes, data.image_size) == ("digits", 10, (32, 32))
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert contents(data) == contents(load_dataset("digits"))
    assert data.train.flip is False
    assert data.channels == 1
    assert torch.bincount(data.test.labels).min() >= 34


def test_limits():
    data = load_dataset("digits", limit_train=100, limit_test=10_000)
    assert (len(data.train), len(data.test)) == (100, 360)
    assert contents(data) != contents(load_dataset("digits"))


def test_refused_arguments():
    with pytest.raises(OptionsError, match=r"limit.* 1 or more.* 0"):
        load_dataset("digits", limit_train=0)
    with pytest.raises(OptionsError, match=r"workers.* 0 or more.* -1"):
        load_dataset("digits", workers=-1)


def test_unknown_sources(tmp_path):
    (tmp_path / "x.csv").touch()
    with pytest.raises(DataError, match=r"none.*digits.*npz"):
        load_dataset(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"x\.csv.*npz"):
        load_dataset(str(tmp_path / "x.csv"))
    with pytest.raises(DataError, match=r"train/.*cifar-10-.*cifar-100-"):
        load_dataset(str(tmp_path))


def test_a_file_of_cifar_that_the_system_does_not_read_is_not_called_missing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", refuse)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied; allowed"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar-100-python"])
def test_cifar_must_be_the_published_files(tmp_path, folder):
    (tmp_path / folder).mkdir()
    for source in (tmp_path, tmp_path / folder):
        with pytest.raises(DataError, match=r"cifar-10.*cifar10.*MD5"):
            load_dataset(str(source))


def test_two_cifars_are_ambiguous(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(DataError, match=r"CIFAR-10 .*CIFAR-100"):
        load_dataset(str(tmp_path))


def test_a_folder_of_another_layout_is_described(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt, train/; .*test/"):
        load_dataset(str(tmp_path))
