"""Image folders, in memory and streamed."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import load_dataset
from pipeline.data.memory import SAME_IMAGES, MemorySplit
from pipeline.data.streaming import FolderSplit
from pipeline.errors import DataError
from tests.pipeline.data.deep_images import deep_png
from tests.support.datasets import contents

CPU = torch.device("cpu")


def make(root, size=(20, 16), splits=("train", "val"), classes=("cat", "dog"), count=5):
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize("second", ["val", "test"])
def test_small_images_are_in_memory(tmp_path, second):
    data = load_dataset(str(make(tmp_path / "pets", splits=("train", second))))
    assert isinstance(data.train, MemorySplit)
    assert (data.name, data.class_names, data.image_size) == ("pets", ("cat", "dog"), (16, 20))
    assert sorted(data.train.labels.tolist()) == [0] * 5 + [1] * 5


@pytest.mark.parametrize(("largest", "dark"), [(4095, True), (65535, False)])
def test_the_largest_value_of_16_bits_is_said(tmp_path, largest, dark):
    root = make(tmp_path / "pets")
    assert not any("16 bits" in note for note in load_dataset(str(root)).notes)
    values = np.random.default_rng(0).integers(0, largest, (16, 20), dtype=np.uint16)
    values[3, 4] = largest
    Image.fromarray(values).save(root / "train" / "cat" / "0.png")
    (note,) = (note for note in load_dataset(str(root)).notes if "16 bits" in note)
    assert str(largest) in note
    assert ("dark" in note) == dark


def test_dark_colours_of_16_bits_are_said(tmp_path):
    root = make(tmp_path / "pets")
    (root / "train" / "cat" / "0.png").write_bytes(deep_png(np.full((16, 20, 3), 4095)))
    (note,) = (note for note in load_dataset(str(root)).notes if "16 bits" in note)
    assert all(term in note for term in ("4095", "dark"))


def test_files_that_are_left_out_are_counted_once(tmp_path):
    """Photographs in .heic beside .jpg were missing without a word."""
    root = make(tmp_path / "pets")
    assert load_dataset(str(root)).notes == ()
    for name in ("train/cat/a.heic", "val/dog/more/b.HEIC", "train/dog/notes.txt", "train/dog/README"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"none of ours")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "train" / "cat" / name).write_bytes(b"of the system")
    for half in ("train", "val"):
        (root / half / "loose.jpg").write_bytes(b"not read")
    data = load_dataset(str(root))
    assert len(data.train) + len(data.test) == 20
    assert data.notes == (
        "files whose ending is not that of an image are left out: 2 .heic, 1 without one, 1 .txt",
        "images outside the class folders are left out: 1 in train/, 1 in val/",
    )


def test_odd_sizes_and_modes_are_brought_to_the_common_size(tmp_path):
    root = make(tmp_path / "pets")
    Image.new("L", (30, 30), 100).save(root / "val" / "cat" / "odd.png")
    assert load_dataset(str(root)).test.images.shape[1:] == (16, 20, 3)


def test_large_images_stream(tmp_path):
    data = load_dataset(str(make(tmp_path / "big", size=(300, 120))), workers=0, limit_train=6)
    assert isinstance(data.train, FolderSplit)
    assert (data.image_size, len(data.train)) == ((224, 224), 6)
    images, labels = next(data.train.batches(4, device=CPU))
    assert images.shape == (4, 3, 224, 224)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert data.test.sample(3, seed=0, device=CPU).shape == (3, 3, 224, 224)
    assert contents(data) == contents(load_dataset(str(tmp_path / "big"), limit_train=6))


def test_workers_do_not_change_the_images(tmp_path):
    root = make(tmp_path / "big", size=(130, 100), count=3)

    def run(workers, seed):
        torch.manual_seed(workers)
        split = load_dataset(str(root), workers=workers).train
        batches = split.batches(2, device=CPU, seed=seed, augment=True)
        return torch.cat([images for images, _ in batches])

    assert torch.equal(run(0, 7), run(2, 7))
    assert not torch.equal(run(0, 7), run(0, 8))


@pytest.mark.parametrize("size", [(20, 16), (300, 120)])
def test_some_images_are_mirrored_or_none(tmp_path, size):
    split = load_dataset(str(make(tmp_path / "pets", size=size, count=8)), workers=0).train
    plain = split.unmirrored()
    assert (split.flip, plain.flip) == (True, False)
    assert split.digest != plain.digest
    (shown, labels), (same, same_labels) = (
        next(each.batches(16, device=CPU, seed=3, augment=True)) for each in (split, plain)
    )
    assert torch.equal(labels, same_labels)
    as_they_are = (shown == same).flatten(1).all(1)
    assert torch.equal(~as_they_are, (shown == same.flip(3)).flatten(1).all(1))
    assert 0 < int(as_they_are.sum()) < 16


@pytest.mark.parametrize(("size", "workers"), [((20, 16), 2), ((300, 120), 0), ((300, 120), 2)])
def test_damaged_image_is_named(tmp_path, size, workers):
    path = make(tmp_path / "pets", size=size) / "val" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[: 100 if size[0] < 100 else 3000])
    with pytest.raises(DataError, match=r"^\S*3\.png.*image.*damaged.*format$"):
        list(load_dataset(str(tmp_path / "pets"), workers=workers).test.batches(4, device=CPU))


def test_damaged_header_is_named(tmp_path):
    (make(tmp_path / "pets") / "val" / "dog" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png.*image"):
        load_dataset(str(tmp_path / "pets"))


def test_a_class_without_images_keeps_its_place_and_is_noted(tmp_path):
    root = make(tmp_path / "sample", classes=("ant", "cat", "dog"))
    for path in (root / "val" / "ant").iterdir():
        path.unlink()
    data = load_dataset(str(root))
    assert (data.classes, data.class_names) == (3, ("ant", "cat", "dog"))
    assert set(data.test.labels.tolist()) == {1, 2}
    (note,) = data.notes
    assert all(term in note for term in ("val/", "1 of 3", "ant"))


def test_what_macos_adds_to_archives_is_no_class(tmp_path):
    root = make(tmp_path / "pets")
    (root / "train" / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "train" / "cat" / "._0.png").write_bytes(b"attributes")
    assert load_dataset(str(root)).classes == 2


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "lost+found"])
def test_folders_that_systems_add_hold_no_images(tmp_path, name):
    root = make(tmp_path / "pets")
    before = len(load_dataset(str(root)).train)
    for place in (root / "train" / "cat" / name, root / "train" / name):
        place.mkdir()
        (place / "0.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes())
    data = load_dataset(str(root))
    assert (data.classes, len(data.train)) == (2, before)


def test_names_of_classes_may_differ_in_unicode_normalization(tmp_path):
    """The class order is that of the training folders' own names, as in torchvision."""
    composed, decomposed = "\u00e9clair", "e\u0301clair"
    root = make(tmp_path / "cakes", splits=("train",), classes=(decomposed, "fudge"))
    make(root, splits=("val",), classes=(composed, "fudge"), count=3)
    data = load_dataset(str(root))
    assert data.class_names == (composed, "fudge")
    assert sorted(data.test.labels.tolist()) == [0] * 3 + [1] * 3
    make(root, splits=("val",), classes=(decomposed,), count=2)
    assert sorted(load_dataset(str(root)).test.labels.tolist()) == [0] * 5 + [1] * 3


def test_small_images_beyond_the_memory_are_enlarged_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.folders.MEMORY_BYTES", 100)
    root = make(tmp_path / "many")
    data = load_dataset(str(root))
    assert data.image_size == (224, 224)
    assert any("224x224" in note and "--image-size" in note for note in data.notes)
    small = load_dataset(str(root), image_size=(16, 16))
    assert (small.image_size, small.notes) == ((16, 16), ())


def test_images_of_one_class_alone_are_refused(tmp_path):
    root = make(tmp_path / "sample")
    for path in (root / "train" / "cat").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"train/cat .*1 image or more.*none.*2 classes"):
        load_dataset(str(root))


def test_refused_layouts(tmp_path):
    (make(tmp_path / "a") / "val" / "bird").mkdir()
    with pytest.raises(DataError, match=r"class folders.*bird"):
        load_dataset(str(tmp_path / "a"))
    make(tmp_path / "b", classes=("cat",))
    with pytest.raises(DataError, match=r"2 class folders.* 1$"):
        load_dataset(str(tmp_path / "b"))
    make(tmp_path / "c", count=0)
    with pytest.raises(DataError, match=r"cat.* 1 image or more.*none"):
        load_dataset(str(tmp_path / "c"))


@pytest.mark.parametrize("size", [(20, 16), (130, 100)])
def test_one_folder_for_both_halves_is_named(tmp_path, size):
    """Top-1 was measured on training images without a word; the larger images are streamed."""
    root = make(tmp_path / "pets", size=size, splits=("val",))
    (root / "train").symlink_to("val")
    assert SAME_IMAGES in load_dataset(str(root), workers=0).notes
    assert SAME_IMAGES in load_dataset(str(root), workers=0, limit_train=3, limit_test=4).notes
    (root / "train").unlink()
    make(root, size=size, splits=("train",), count=6)
    assert SAME_IMAGES not in load_dataset(str(root), workers=0).notes
