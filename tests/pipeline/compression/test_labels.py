"""The caller's labels: they are classes of the network, or they are refused or left out with a warning."""

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pipeline import compress
from pipeline.compression.images import read_images
from pipeline.errors import DataError
from tests.pipeline.compression.networks import Net, images, labels_of, seeded

X = images()
Y = labels_of(X)


@pytest.mark.parametrize(
    "entries",
    [
        {"label": functional.one_hot(Y, 4).float()},
        {"label": Y, "labels": Y},
        {"fine_label": Y, "coarse_label": Y // 2},
        {"class": [str(int(y)) for y in Y]},
        {"target": Y.float(), "number": torch.arange(len(Y))},
    ],
)
def test_entries_of_a_dict_that_are_no_labels_are_left_out_with_a_warning(entries, caplog):
    assert read_images([{"image": X, **entries}], count=48, seed=0, batch_size=16, train=True).labels is None
    assert "left out" in caplog.text


@pytest.mark.parametrize("labels", [Y.float(), functional.one_hot(Y)], ids=["floats", "one-hot"])
def test_labels_that_are_left_out_are_said(labels, caplog):
    read_images((X, labels), count=8, seed=0, batch_size=8, train=True)
    assert "left out" in caplog.text
    caplog.clear()
    read_images((X, labels), count=8, seed=0, batch_size=8, train=False)
    assert caplog.text == ""


NUMBERS = torch.arange(len(X))


@pytest.mark.parametrize(
    ("others", "warned"),
    [((Y, NUMBERS), True), ((Y, X[:, 0, 0, 0]), False), ((X * 2, Y), False), ((Y, NUMBERS, X[:, 0, 0, 0]), True)],
    ids=["index", "weights", "views", "both"],
)
def test_longer_tuples_have_their_labels_beside_the_images(others, warned, caplog):
    batches = [tuple(part) for part in zip(*(each.split(16) for each in (X, *others)), strict=True)]
    for source in (batches, DataLoader(TensorDataset(X, *others), 16)):
        caplog.clear()
        assert torch.equal(read_images(source, count=48, seed=0, batch_size=16, train=True).labels, Y)
        assert ("the second entry is used" in caplog.text) == warned


def test_longer_tuples_without_labels_or_with_unclear_ones_say_so(caplog):
    for others in ((X, X), (Y.float(), Y, NUMBERS)):
        caplog.clear()
        source = DataLoader(TensorDataset(X, *others), 16)
        assert read_images(source, count=48, seed=0, batch_size=16, train=True).labels is None
        assert "left out" in caplog.text


def test_a_tuple_of_all_images_and_labels_may_be_longer():
    found = read_images((X, Y, NUMBERS), count=48, seed=0, batch_size=16, train=True)
    assert torch.equal(found.calibration, X)
    assert torch.equal(found.labels, Y)


def test_the_label_that_losses_ignore_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr("pipeline.compression.compress.fit_series", None)
    labels = torch.where(NUMBERS == 3, -100, Y)
    for source in ((X, labels), DataLoader(TensorDataset(X, labels), 16)):
        with pytest.raises(DataError, match=r"from -100 to 3 .* 4 classes.*allowed: 0 to 3, without.*-100.*ignore"):
            compress(seeded(), source, config="3,2,2", epochs=1)


class One(Net):
    def __init__(self):
        super().__init__(1)


@pytest.mark.parametrize("options", [{"config": "3,2,2", "bits": 8, "epochs": 1}, {"target_mb": 0.0015, "epochs": 0}])
def test_one_output_is_no_logit_of_classes(options, caplog):
    labels = Y % 2
    found, wanted = (compress(seeded(One), source, batch_size=16, **options) for source in ((X, labels), X))
    assert found.content == wanted.content
    assert not options["epochs"] or "the labels are left out" in caplog.text


def test_labels_outside_the_classes_are_refused_before_training():
    with pytest.raises(DataError, match=r"0 to 7 .* 4 classes"):
        compress(seeded(), (X, torch.arange(48) % 8), config="3,2,2", epochs=1)


@pytest.mark.parametrize("wrap", [lambda x, y: (x, y), lambda x, y: DataLoader(TensorDataset(x, y), batch_size=8)])
def test_a_label_that_is_no_class_is_refused_behind_the_calibration_images_too(wrap):
    labels = Y.clone()
    labels[-1] = 9
    with pytest.raises(DataError, match=r"labels from \d to 9 .* 4 classes"):
        compress(seeded(), wrap(X, labels), config="3,2,2", epochs=1, calibration_size=16, batch_size=8)


def test_another_number_of_labels_than_images_is_refused():
    with pytest.raises(DataError, match="10 labels for 48 images"):
        compress(seeded(), (images(), torch.zeros(10, dtype=torch.int64)), config="3,2,2", bits=4)


def test_labels_that_come_and_go_are_refused():
    class Some:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([(X, Y)] if self.passes < 2 else [X])

        def __len__(self):
            return 1

    with pytest.raises(DataError, match="without labels"):
        compress(seeded(), Some(), config="3,2,2", epochs=1)


def test_sparse_labels_are_refused():
    with pytest.raises(DataError, match=r"labels .*sparse_coo; allowed: dense"):
        compress(seeded(), (X, Y.to_sparse()), config=[3, 2, 2], epochs=1)
