"""Arrays of users: other names, layouts, types and labels."""

import numpy as np
import pytest
import torch

from pipeline.data import load_dataset
from pipeline.data.dataset import Normalization, default_normalization
from pipeline.errors import DataError
from tests.support.datasets import contents

RNG = np.random.default_rng(0)
CPU = torch.device("cpu")
LABELS = np.array([0, 1, 2, 0, 1, 2])
IMAGES = RNG.integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)


def load(tmp_path, images=IMAGES, labels=LABELS, **more):
    np.savez(tmp_path / "tiny.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3], **more)
    return load_dataset(str(tmp_path / "tiny.npz"))


def in_file_order(split):
    """The stored images and labels in the order of the file."""
    return split.images.numpy(), split.labels.tolist()


@pytest.mark.parametrize(
    ("names", "unused"),
    [
        ({"train_images": "x", "train_labels": "y", "test_images": "other", "test_labels": "y"}, None),
        (
            {
                **{"train_images": "x", "train_labels": "y", "val_images": "bad", "val_labels": "y"},
                **{"test_images": "other", "test_labels": "y"},
            },
            "val_images",
        ),
        ({"X_train": "x", "y_train": "y", "X_valid": "other", "y_valid": "y"}, None),
        ({"train_x": "x", "train_y": "y", "val_x": "other", "val_y": "y"}, None),
    ],
)
def test_names_of_keras_and_medmnist(tmp_path, names, unused):
    kinds = {"x": IMAGES, "y": LABELS[:, None].astype(np.uint8), "bad": IMAGES[:, :4], "other": 255 - IMAGES}
    np.savez(tmp_path / "tiny.npz", **{name: kinds[kind] for name, kind in names.items()})
    data = load_dataset(str(tmp_path / "tiny.npz"))
    assert (len(data.train), len(data.test), data.classes) == (6, 6, 3)
    assert np.array_equal(in_file_order(data.train)[0], IMAGES)
    assert [unused in note for note in data.notes] == ([True] if unused else [])


def test_unknown_names_are_listed(tmp_path):
    np.savez(tmp_path / "tiny.npz", pictures=IMAGES, truth=LABELS)
    with pytest.raises(DataError, match=r"holds pictures, truth;.*x_train.*train_images"):
        load_dataset(str(tmp_path / "tiny.npz"))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_are_recognised(tmp_path, channels):
    images = IMAGES[..., :channels]
    data = load(tmp_path, images.transpose(0, 3, 1, 2))
    assert data.image_size == (8, 9)
    assert np.array_equal(in_file_order(data.train)[0], images)
    assert any("channels first" in note for note in data.notes)


def test_square_bands_first_are_recognised_and_bands_last_are_kept(tmp_path):
    bands = RNG.integers(0, 256, (6, 16, 16, 13), dtype=np.uint8)
    first, last = load(tmp_path, bands.transpose(0, 3, 1, 2)), load(tmp_path, bands)
    assert (first.channels, last.channels, last.notes) == (13, 13, ())
    assert contents(first) == contents(last)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_any_number_of_channels_is_batched_augmented_and_sampled(tmp_path, channels):
    images = RNG.integers(0, 256, (6, 100, 16, channels), dtype=np.uint8)
    data = load(tmp_path, images).normalized(Normalization((0.25,) * channels, (0.5,) * channels))
    assert data.channels == channels
    for options in ({}, {"seed": 0, "augment": True}):
        batch, _ = next(data.train.batches(6, device=CPU, **options))
        assert batch.shape == (6, channels, 100, 16)
        assert batch.is_contiguous(memory_format=torch.channels_last)
    plain, _ = next(data.test.batches(3, device=CPU))
    picked = data.test.images[data.test.order].permute(0, 3, 1, 2)
    torch.testing.assert_close(plain, (picked / 255 - 0.25) / 0.5)


def test_colours_become_gray_as_in_pillow(tmp_path):
    from PIL import Image

    data = load(tmp_path).normalized(Normalization((0.0,), (1.0,)))
    batch, _ = next(data.train.batches(6, device=CPU))
    for value, place in zip(batch, data.train.order, strict=True):
        gray = np.asarray(Image.fromarray(IMAGES[place]).convert("L"))
        assert np.array_equal((value[0] * 255).round().numpy(), gray)


@pytest.mark.parametrize(
    ("images", "expected", "words"),
    [
        (IMAGES.astype(np.int64), IMAGES, None),
        (IMAGES.astype(np.float32), IMAGES, None),
        (IMAGES.astype(np.uint16) * 257, IMAGES, "16 bits"),
        ((IMAGES / 255).astype(np.float32), IMAGES, "floats of 0 to 1"),
        ((IMAGES / 255).astype(np.float64), IMAGES, "floats of 0 to 1"),
        (((IMAGES / 255) * 1.0008 - 0.0004).astype(np.float32), IMAGES, "floats of 0 to 1"),
        (IMAGES.astype(np.uint16) * 16 + 8192, (IMAGES * 16.0 + 8192 + 128) // 257, "they are dark"),
        (IMAGES > 127, 255 * (IMAGES > 127), None),
        ((IMAGES > 127).astype(np.float32), 255 * (IMAGES > 127), "floats of 0 to 1"),
        (np.minimum(IMAGES, 1).astype(np.int32), np.minimum(IMAGES, 1), "they are black"),
        (np.minimum(IMAGES, 1), np.minimum(IMAGES, 1), "they are black"),
    ],
)
def test_types_of_values(tmp_path, images, expected, words):
    data = load(tmp_path, images)
    assert np.array_equal(in_file_order(data.train)[0], expected)
    assert [words in note for note in data.notes] == ([True] if words else [])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((IMAGES / 255 - 0.485) / 0.229, r"0 to 1.*before normalization.*-2\.1"),
        (IMAGES.astype(np.int32) - 9, "0 to 255.*int32"),
        (IMAGES.astype(np.int64) * 1000, "0 to 65535.*255000"),
        (np.where(IMAGES > 250, np.nan, IMAGES / 255), "nan"),
    ],
)
def test_values_of_unknown_range_are_refused(tmp_path, images, words):
    with pytest.raises(DataError, match=words):
        load(tmp_path, images)


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (LABELS + 1, ("0", "1", "2"), "shifted"),
        (LABELS[:, None].astype(np.float32), ("0", "1", "2"), None),
        (np.eye(3, dtype=np.uint8)[LABELS], ("0", "1", "2"), None),
        (np.array(["b", "c", "a"])[LABELS], ("a", "b", "c"), None),
        (np.array([b"b", b"c", b"a"])[LABELS], ("a", "b", "c"), None),
    ],
)
def test_labels_of_every_kind(tmp_path, labels, names, words):
    data = load(tmp_path, labels=labels)
    assert data.class_names == names
    expected = [1, 2, 0, 1, 2, 0] if labels.dtype.kind in "US" else LABELS.tolist()
    assert in_file_order(data.train)[1] == expected
    assert [words in note for note in data.notes] == ([True] if words else [])


def test_labels_without_an_image_are_said(tmp_path):
    data = load(tmp_path, labels=LABELS * 3)
    assert len(data.class_names) == 7
    assert any("1, 2, 4, 5" in note for note in data.notes)
    names = np.array(list("abcdefg"))
    assert load(tmp_path, labels=LABELS * 3, class_names=names).notes == ()


@pytest.mark.parametrize("names", [np.array(list("abc")), np.arange(3)], ids=["strings", "numbers"])
def test_classes_of_test_images_alone_are_noted(tmp_path, names):
    some = names[LABELS % 2]
    np.savez(tmp_path / "tiny.npz", x_train=IMAGES, y_train=some, x_test=IMAGES, y_test=names[LABELS])
    note = f"test images have classes that no training image has: {names[2]}"
    assert load_dataset(str(tmp_path / "tiny.npz")).notes == (note,)
    assert load_dataset(str(tmp_path / "tiny.npz"), test_only=True).notes == ()
    np.savez(tmp_path / "tiny.npz", x_train=IMAGES, y_train=names[LABELS], x_test=IMAGES, y_test=some)
    assert load_dataset(str(tmp_path / "tiny.npz")).notes == ()


@pytest.mark.parametrize("value", [np.nan, 1.5])
def test_a_label_that_is_no_whole_number_is_named(tmp_path, value):
    with pytest.raises(DataError, match=rf"y_train of .* must hold whole numbers or strings, got {value}"):
        load(tmp_path, labels=np.array([0, 1, 2, 0, value, 2]))


def test_class_names_decide_about_labels_from_1(tmp_path):
    three, four = np.array(["a", "b", "c"]), np.array(["none", "a", "b", "c"])
    assert in_file_order(load(tmp_path, labels=LABELS + 1, class_names=three).train)[1] == LABELS.tolist()
    assert in_file_order(load(tmp_path, labels=LABELS + 1, class_names=four).train)[1] == (LABELS + 1).tolist()


@pytest.mark.parametrize(
    ("labels", "more", "words"),
    [
        (np.array([[1, 1, 0], *np.eye(3)[[0, 1, 2, 0, 1]]]), {}, r"\(6, 3\).*one label"),
        (np.array(["a", "b", "x"])[LABELS], {"class_names": np.array(["a", "b"])}, "label 'x'.*class_names"),
    ],
)
def test_labels_without_one_class_are_refused(tmp_path, labels, more, words):
    with pytest.raises(DataError, match=words):
        load(tmp_path, labels=labels, **more)


def test_the_default_normalization_of_other_channels_is_the_mean_of_the_published_values():
    assert default_normalization(3) == Normalization()
    assert default_normalization(1).mean == pytest.approx([0.449])
    assert default_normalization(4).std == pytest.approx([0.226] * 4)
    assert default_normalization(2, (0.5,), (0.25,)) == Normalization((0.5, 0.5), (0.25, 0.25))
