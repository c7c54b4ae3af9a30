"""`.npz` files, whole, sorted by class and damaged."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.data import load_dataset
from pipeline.data.memory import SAME_IMAGES
from pipeline.errors import DataError

RNG = np.random.default_rng(0)


def arrays(**changes):
    content = {
        "x_train": RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
        "x_test": RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8),
        "y_test": np.array([0, 1, 2]),
    }
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def load(tmp_path, **changes):
    np.savez_compressed(tmp_path / "tiny.npz", **arrays(**changes))
    return load_dataset(str(tmp_path / "tiny.npz"))


def test_whole_file(tmp_path):
    data = load(tmp_path, class_names=np.array(["a", "b", "c", "d"]))
    assert (data.name, data.classes, data.class_names, data.image_size) == ("tiny", 4, ("a", "b", "c", "d"), (8, 8))
    assert (len(data.train), len(data.test)) == (6, 3)


def test_arrays_whose_names_differ_in_case_alone_are_refused(tmp_path):
    """The last of them was used without a word."""
    other = np.zeros((6, 8, 8, 3), np.uint8)
    for name, value in (("X_TRAIN", other), ("Y_test", np.array([0, 0, 0]))):
        with pytest.raises(DataError, match=rf"has the arrays {name.lower()} and {name}, whose names differ in case"):
            load(tmp_path, **{name: value})
    with pytest.raises(DataError, match="arrays class_names and Class_Names, whose"):
        load(tmp_path, class_names=np.array(["a", "b", "c"]), Class_Names=np.array(["a", "b", "c"]))
    assert len(load(tmp_path, notes=other, NOTES=other).train) == 6, "names of neither"


def test_the_same_images_in_both_halves_are_named_once(tmp_path):
    """Top-1 was measured on training images without a word."""
    content = arrays()
    same = {"x_test": content["x_train"], "y_test": content["y_train"]}
    np.savez(tmp_path / "same.npz", **content | same)
    assert load_dataset(str(tmp_path / "same.npz")).notes == (SAME_IMAGES,)
    assert load_dataset(str(tmp_path / "same.npz"), limit_train=4, limit_test=2).notes == (SAME_IMAGES,)


@pytest.mark.parametrize("content", [b"", b"hi", b"\x93NUMPY\x01\x00", "array"])
def test_a_file_that_is_no_archive_is_no_pickle(tmp_path, content):
    """NumPy advised to load it unsafely, or the error named a Python protocol."""
    path = tmp_path / "tiny.npz"
    if content == "array":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"\.npz.*no zip archive.*damaged"):
        load_dataset(str(path))


def test_case_of_class_names_does_not_matter(tmp_path):
    assert load(tmp_path, Class_Names=np.array(["a", "b", "c"])).class_names == ("a", "b", "c")


def test_further_arrays_are_named(tmp_path):
    content = arrays()
    data = load(tmp_path, train_images=content["x_train"], train_labels=content["y_train"])
    assert data.notes == ("the training images are those in x_train; not used: train_images",)


def test_grey_images_and_column_labels(tmp_path):
    grey = {"x_train": np.full((6, 8, 8), 9, np.uint8), "x_test": np.full((3, 8, 8, 1), 9, np.uint8)}
    data = load(tmp_path, **grey, y_test=np.array([[0], [1], [2]]))
    assert data.train.images.shape == (6, 8, 8, 1)
    assert data.channels == 1
    assert next(data.train.batches(6, device=torch.device("cpu")))[0].shape == (6, 3, 8, 8)
    assert data.train.flip is False
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]


def by_class(folder, *, shuffled):
    """Write 2,000 training and 400 test images of 10 classes, whose pixels hold their labels."""
    content = {}
    for half, count in (("train", 2000), ("test", 400)):
        labels = np.sort(np.arange(count) % 10)
        if shuffled:
            labels = np.random.default_rng(1).permutation(labels)
        images = np.broadcast_to(labels[:, None, None, None], (count, 4, 4, 3)).astype(np.uint8)
        content |= {f"x_{half}": images, f"y_{half}": labels}
    np.savez(folder / f"shuffled-{shuffled}.npz", **content)
    return str(folder / f"shuffled-{shuffled}.npz")


def kept_labels(split):
    batches = list(split.batches(64, device=torch.device("cpu")))
    pixels = torch.cat([images[:, 0, 0, 0] for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    stored = (pixels * split.normalization.std[0] + split.normalization.mean[0]) * 255
    assert torch.equal(stored.round().long(), labels)  # every image keeps its label
    return labels


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_first_images_hold_all_classes_even_if_the_file_is_sorted(tmp_path, shuffled):
    source = by_class(tmp_path, shuffled=shuffled)
    whole, limited = load_dataset(source), load_dataset(source, limit_train=500, limit_test=200)
    firsts = [limited.train, limited.test, whole.train.part(0, 500), whole.test.head(100)]
    for split in firsts:
        shares = torch.bincount(kept_labels(split), minlength=10) / len(split)
        assert shares.min() > 0.03
        assert shares.max() < 0.2
    assert torch.equal(torch.bincount(kept_labels(whole.test)), torch.full((10,), 40))
    assert torch.equal(kept_labels(whole.train.part(7, 90)), kept_labels(whole.train)[7:90])


def test_draws_with_a_seed_do_not_depend_on_the_order_of_the_first_images(tmp_path):
    train = load_dataset(by_class(tmp_path, shuffled=True)).train
    stored = dataclasses.replace(train, order=None)
    device = torch.device("cpu")
    assert torch.equal(train.sample(9, seed=3, device=device), stored.sample(9, seed=3, device=device))
    for mixed, plain in zip(
        train.batches(500, device=device, seed=3), stored.batches(500, device=device, seed=3), strict=True
    ):
        assert torch.equal(mixed[0], plain[0])
        assert torch.equal(mixed[1], plain[1])


def test_the_digest_follows_the_order_and_the_kept_images(tmp_path):
    train = load_dataset(by_class(tmp_path, shuffled=True)).train
    same = load_dataset(by_class(tmp_path, shuffled=True)).train
    assert train.digest == same.digest
    others = [dataclasses.replace(train, order=None), dataclasses.replace(train, order=train.order.flip(0))]
    digests = [split.digest for split in (train, *others, train.head(500), others[0].head(500))]
    assert len(set(digests)) == len(digests)


def test_limits(tmp_path):
    np.savez(tmp_path / "tiny.npz", **arrays())
    data = load_dataset(str(tmp_path / "tiny.npz"), limit_train=2, limit_test=1)
    assert (len(data.train), len(data.test), data.classes) == (2, 1, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "test images with labels.*x_train.*x_test.*test_images"),
        ({"x_train": np.full((6, 8, 8, 3), -0.5, np.float32)}, "0 to 255.*0 to 1.*-0.5.*float32"),
        ({"x_train": np.zeros((6, 192), np.uint8)}, r"x_train.*\(N, H, W, C\).*\(6, 192\)"),
        ({"x_train": np.zeros((0, 8, 8, 3), np.uint8)}, r"1 image or more.*\(0, 8, 8, 3\)"),
        ({"x_test": np.zeros((3, 4, 4, 3), np.uint8)}, r"one shape.*\(8, 8, 3\).*\(4, 4, 3\)"),
        ({"y_train": np.full(6, 0.5)}, "y_train.*whole numbers.*got 0.5"),
        ({"y_train": np.zeros(5, int)}, r"y_train.* 6 images.*\(5,\)"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "y_train.* labels of 0 to .* -1"),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(3, int)}, "2 classes or more.* 1$"),
        ({"y_test": np.array([0, 1, 10**12])}, "y_test.* labels of 0 to 2147483647.* 1000000000000"),
        ({"class_names": np.array(["a", "b"])}, "below 2.*class_names.* 2$"),
        ({"class_names": np.array([1, 2, 3])}, "class_names.*strings.*int64"),
        ({"x_train": np.array([None] * 6)}, r"x_train of .*tiny\.npz holds Python objects"),
        ({"y_test": np.array(["a", "b", "c"])}, "strings in both halves.*y_train.*<U1 in y_test"),
        ({"y_test": np.array([0, 1, np.inf])}, "y_test.* labels of 0 to 2147483647.* inf"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 2**63 + 2], np.uint64)}, "y_train.* labels of 0 to 2147483647"),
        ({"y_train": np.eye(3)[[0, 1, 2] * 2], "y_test": np.eye(5)[[0, 1, 2]]}, r"one length.*\(6, 3\).*\(3, 5\)"),
        (
            {
                "class_names": np.array(["a", "a", "b"]),
                "y_train": np.array(["a"] * 6),
                "y_test": np.array(["b"] * 3),
            },
            "class_names.*different.*'a'",
        ),
        ({"y_train": np.eye(2)[[0, 1] * 3]}, r"one length.*\(6, 2\).* 2$"),
        ({"x_test": np.full((3, 8, 8, 3), 40_000, np.uint16)}, "one range.*0 to 255.*0 to 65535"),
        ({"x_train": np.full((6, 8, 8, 3), 0.5)}, "one range.*0 to 1.*0 to 255"),
        ({"x_train": np.ones((6, 8, 8, 3), bool)}, "one range.*false and true"),
    ],
)
def test_refusals(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        load(tmp_path, **changes)


@pytest.mark.parametrize("width", [3, 5])
def test_one_hot_rows_define_the_classes_and_are_never_shifted(tmp_path, width):
    """No image has the first class."""
    data = load(tmp_path, y_train=np.eye(width)[[1, 2] * 3], y_test=np.eye(width, dtype=int)[[1, 2, 1]])
    assert data.classes == width
    assert data.test.labels.tolist() == [1, 2, 1]


@pytest.mark.parametrize(("classes", "labels"), [(None, [0, 1, 0]), (2, [0, 1, 0]), (3, [1, 2, 1])])
def test_labels_from_1_are_not_shifted_where_more_classes_are_known(tmp_path, classes, labels):
    np.savez_compressed(tmp_path / "tiny.npz", **arrays(y_train=np.array([1, 2] * 3), y_test=np.array([1, 2, 1])))
    assert load_dataset(str(tmp_path / "tiny.npz"), classes=classes).test.labels.tolist() == labels


def test_one_hot_rows_beside_numbers_and_repeated_names_of_numbers(tmp_path):
    data = load(tmp_path, y_train=np.eye(3)[[0, 1, 2] * 2], class_names=np.array(["crane", "bird", "crane"]))
    assert (data.class_names, data.test.labels.tolist()) == (("crane", "bird", "crane"), [0, 1, 2])


def test_names_that_are_not_utf_8_stay_apart(tmp_path):
    names = np.array([b"caf\xe9", b"caf\xe8", b"the"])
    data = load(tmp_path, y_train=names[[0, 1, 2] * 2], y_test=names)
    assert data.class_names == ("caf\\xe8", "caf\\xe9", "the")
    assert data.test.labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize("cut", [0, 10, 300, -30])
def test_truncated(tmp_path, cut):
    path = tmp_path / "tiny.npz"
    np.savez_compressed(path, **arrays())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"tiny\.npz.*npz file.*damaged"):
        load_dataset(str(path))


def test_a_file_that_the_system_does_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    np.savez(tmp_path / "tiny.npz", **arrays())
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(DataError, match=r"tiny\.npz cannot be read: Permission denied; allowed"):
        load_dataset(str(tmp_path / "tiny.npz"))


def test_flipped_bytes(tmp_path):
    path = tmp_path / "tiny.npz"
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    content[300:320] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tiny\.npz.*npz file.*damaged"):
        load_dataset(str(path))


def test_a_bare_array_is_refused(tmp_path):
    with (tmp_path / "tiny.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"tiny\.npz.*npz file.*damaged"):
        load_dataset(str(tmp_path / "tiny.npz"))


@pytest.mark.real
def test_cifar10(data_folder):
    data = load_dataset(str(data_folder / "cifar10.npz"))
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("cifar10", 10, 50_000, 10_000)
    batches = data.train.batches(128, device=torch.device("cpu"), seed=0, augment=True)
    assert next(batches)[0].shape == (128, 3, 32, 32)
