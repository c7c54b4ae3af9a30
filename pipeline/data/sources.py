"""Load the data set that ``--data`` names."""

from pathlib import Path
from typing import Final

import torch
from torch.nn import functional

from pipeline.data.cifar import cifar_folders, load_cifar
from pipeline.data.dataset import Dataset, Normalization, check_limit
from pipeline.data.folders import is_image_folder, load_folder
from pipeline.data.image_files import readable
from pipeline.data.memory import MemorySplit, memory_dataset, resized
from pipeline.data.npz import load_npz
from pipeline.errors import DataError, OptionsError
from pipeline.options.paths import check_local, expanded, reading

DIGITS_SIZE: Final = 32
"""Side in pixels of the embedded digits."""
DIGITS_TEST: Final = 360
"""Number of the 1,797 digits that are test images."""
ALLOWED: Final = (
    "allowed are digits, an .npz file, a folder with train/ and val/, valid/, validation/ or test/, and a folder with "
    "cifar-10-batches-py or cifar-100-python"
)


def load_dataset(
    source: str,
    *,
    limit_train: int | None = None,
    limit_test: int | None = None,
    workers: int = 2,
    image_size: tuple[int, int] | None = None,
    classes: int | None = None,
    test_only: bool = False,
) -> Dataset:
    """Load a data set.

    Args:
        source: ``digits``, or the path of an ``.npz`` file, of an image folder or of a torchvision CIFAR folder.
        limit_train: Number of training images to keep, a random sample; None keeps all.
        limit_test: Number of test images to keep, a random sample; None keeps all.
        workers: Number of processes that decode streamed images.
        image_size: Height and width in pixels that images are brought to; None for the size of the data.
        classes: Number of classes if it is known, for labels of an ``.npz`` file that may begin with 1.
        test_only: True if only the test images are used. The data may then lack training images, and ``train`` of the
            result may be empty.

    Returns:
        The data set; the digests of its halves cover the kept images only.

    Raises:
        OptionsError: A limit is below 1 or ``workers`` is negative.
        DataError: The source is missing, damaged, of an unknown kind or an address of another machine.
    """
    check_local("--data", source)
    for limit in (limit_train, limit_test):
        if limit is not None:
            check_limit(limit)
    if workers < 0:
        raise OptionsError(f"the number of workers must be 0 or more, got {workers}")
    path = expanded(source)
    with reading(f"the data {readable(path)}"):
        if source != "digits" and is_image_folder(path, test_only=test_only):
            return load_folder(
                path,
                limit_train=limit_train,
                limit_test=limit_test,
                workers=workers,
                image_size=image_size,
                test_only=test_only,
            )
        loaded = load_digits() if source == "digits" else _from_path(path, classes, test_only=test_only)
    data = _limited(loaded, limit_train, limit_test)
    return data if image_size is None else resized(data, image_size)


def _from_path(path: Path, classes: int | None, *, test_only: bool) -> Dataset:
    shown = readable(path)
    if not path.exists():
        raise DataError(f"the data {shown} does not exist; {ALLOWED}")
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(f"the data {shown} is a file but not an .npz file; {ALLOWED}")
        return load_npz(path, classes, test_only=test_only)
    if not path.is_dir():
        raise DataError(f"the data {shown} is neither a file nor a folder; {ALLOWED}")
    folders = cifar_folders(path)
    if not folders:
        entries = sorted(f"{readable(each.name)}{'/' * each.is_dir()}" for each in path.iterdir())
        holds = ", ".join(entries[:6]) + (", ..." if len(entries) > 6 else "") or "nothing"
        raise DataError(f"the data {shown} is a folder of no known layout, it holds {holds}; {ALLOWED}")
    if len(folders) > 1:
        raise DataError(f"the data {shown} holds both CIFAR-10 and CIFAR-100; give one of the two folders in it")
    return load_cifar(folders[0])


def _limited(dataset: Dataset, limit_train: int | None, limit_test: int | None) -> Dataset:
    if limit_train is None and limit_test is None:
        return dataset
    train, test = dataset.train, dataset.test
    if not isinstance(train, MemorySplit) or not isinstance(test, MemorySplit):
        raise TypeError("only data in memory is limited after loading")
    return memory_dataset(
        dataset.name,
        dataset.class_names,
        train if limit_train is None else train.head(limit_train),
        test if limit_test is None else test.head(limit_test),
        dataset.notes,
    )


def load_digits() -> Dataset:
    """Load scikit-learn's digits: 1,437 training and 360 test images, resized from 8x8 to 32x32 pixels.

    The split keeps the proportions of the classes and mixes them, with a fixed seed.
    """
    from sklearn import datasets, model_selection  # imported here, because it takes a second

    bunch = datasets.load_digits()
    train, test = model_selection.train_test_split(
        range(len(bunch.target)), test_size=DIGITS_TEST, stratify=bunch.target, random_state=0
    )
    values = torch.from_numpy(bunch.images).to(torch.float32)[:, None] * (255 / 16)
    large = functional.interpolate(values, size=(DIGITS_SIZE, DIGITS_SIZE), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    splits = [MemorySplit(images[index], labels[index], Normalization(), flip=False) for index in (train, test)]
    return memory_dataset("digits", tuple(map(str, range(10))), splits[0], splits[1])
