"""Load the data set that `--data` names."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from torch.nn import functional

from pipeline.data.cifar import cifar_folders, load_cifar
from pipeline.data.dataset import Dataset, Normalization, check_limit, is_imagenet
from pipeline.data.image_files import ImageFiles, class_folders, decode, header_size, list_files, to_bytes
from pipeline.data.memory import PADDED_SIDE, MemorySplit, memory_dataset
from pipeline.data.npz import load_npz
from pipeline.data.streaming import CROP, FolderSplit
from pipeline.errors import DataError, OptionsError

__all__ = ["is_imagenet", "load_dataset"]

DIGITS_SIZE: Final = 32
"""Side in pixels of the embedded digits."""
DIGITS_TEST: Final = 360
"""Number of the 1,797 digits that are test images."""
MEMORY_BYTES: Final = 1_000_000_000
"""Largest size of a data set that is decoded into memory."""
HEADERS: Final = 64
"""Files of a split whose headers decide if its images are small."""
ALLOWED: Final = (
    "allowed are digits, an .npz file, a folder with train/ and val/ or test/, and a folder with "
    "cifar-10-batches-py or cifar-100-python"
)


def load_dataset(
    source: str, *, limit_train: int | None = None, limit_test: int | None = None, workers: int = 2
) -> Dataset:
    """Load a data set.

    Args:
        source: `digits`, or the path of an `.npz` file, of an image folder or of a torchvision CIFAR folder.
        limit_train: Number of training images to keep, a random sample; None keeps all.
        limit_test: Number of test images to keep, a random sample; None keeps all.
        workers: Number of processes that decode streamed images.

    Returns:
        The data set; its digest covers the kept images only.

    Raises:
        OptionsError: If a limit is below 1 or `workers` is negative.
        DataError: If the source is missing, damaged or of an unknown kind.
    """
    for limit in (limit_train, limit_test):
        if limit is not None:
            check_limit(limit)
    if workers < 0:
        raise OptionsError(f"the number of workers must be 0 or more, got {workers}")
    path = Path(source).expanduser()
    if source != "digits" and is_image_folder(path):
        return load_folder(path, limit_train=limit_train, limit_test=limit_test, workers=workers)
    return _limited(load_digits() if source == "digits" else _from_path(path), limit_train, limit_test)


def _from_path(path: Path) -> Dataset:
    if not path.exists():
        raise DataError(f"the data {path} does not exist; {ALLOWED}")
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(f"the data {path} is a file but not an .npz file; {ALLOWED}")
        return load_npz(path)
    folders = cifar_folders(path)
    if not folders:
        raise DataError(f"the data {path} is a folder of no known layout; {ALLOWED}")
    if len(folders) > 1:
        raise DataError(f"the data {path} holds both CIFAR-10 and CIFAR-100; give one of the two folders in it")
    return load_cifar(folders[0])


def _limited(dataset: Dataset, limit_train: int | None, limit_test: int | None) -> Dataset:
    if limit_train is None and limit_test is None:
        return dataset
    train, test = dataset.train, dataset.test
    if not isinstance(train, MemorySplit) or not isinstance(test, MemorySplit):
        raise TypeError("only data in memory is limited after loading")
    return memory_dataset(
        dataset.name, dataset.class_names, train.head(limit_train or len(train)), test.head(limit_test or len(test))
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
    images = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    splits = [MemorySplit(images[index], labels[index], Normalization(), flip=False) for index in (train, test)]
    return memory_dataset("digits", tuple(map(str, range(10))), *splits)


def is_image_folder(root: Path) -> bool:
    """Return True if `root` holds `train/`, and `val/` or `test/`."""
    return (root / "train").is_dir() and any((root / name).is_dir() for name in ("val", "test"))


def load_folder(root: Path, *, limit_train: int | None, limit_test: int | None, workers: int) -> Dataset:
    """Load an image folder into memory if its images are small and fit, else stream it at 224x224 pixels.

    Args:
        root: Folder with `train/` and `val/` (or, if there is none, `test/`), each with the same class folders.
        limit_train: Training images to keep; None keeps all.
        limit_test: Test images to keep; None keeps all.
        workers: Number of processes (streamed) or threads (in memory) that decode.

    Returns:
        The data set, named after the folder.

    Raises:
        DataError: If the class folders of the splits differ, if a class is empty, or if an image is damaged.
    """
    halves = (root / "train", root / "val" if (root / "val").is_dir() else root / "test")
    classes, other = (class_folders(half) for half in halves)
    if classes != other:
        differ = sorted(set(classes) ^ set(other))
        raise DataError(
            f"{halves[0]} and {halves[1]} must have the same class folders, but only one of "
            f"them has {', '.join(differ[:3])}"
        )
    lists = [list_files(half, classes) for half in halves]
    train, test = (
        files.head(limit or len(files.paths)) for files, limit in zip(lists, (limit_train, limit_test), strict=True)
    )
    name, normalization = root.resolve().name, Normalization()
    size = header_size(train.paths[0])
    if _fits_in_memory(train, test, size):
        splits = [_in_memory(files, size, normalization, workers) for files in (train, test)]
        return memory_dataset(name, classes, *splits)
    streamed = [FolderSplit(files, normalization, workers) for files in (train, test)]
    return Dataset(name, len(classes), classes, (CROP, CROP), streamed[0], streamed[1], normalization)


def _fits_in_memory(train: ImageFiles, test: ImageFiles, size: tuple[int, int]) -> bool:
    total = (len(train.paths) + len(test.paths)) * size[0] * size[1] * 3
    headers = (header_size(path) for files in (train, test) for path in files.paths[:HEADERS])
    return total <= MEMORY_BYTES and all(max(header) <= PADDED_SIDE for header in headers)


def _in_memory(files: ImageFiles, size: tuple[int, int], normalization: Normalization, workers: int) -> MemorySplit:
    def read(path: str) -> torch.Tensor:
        return to_bytes(_resized(decode(path), size))

    images = torch.empty(len(files.paths), *size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for index, image in enumerate(pool.map(read, files.paths)):
            images[index] = image
    return MemorySplit(images, torch.tensor(files.labels), normalization, flip=True)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
