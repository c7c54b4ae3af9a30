"""An image folder: `train/` beside `val/` or `test/`, and in each one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from pipeline.data.dataset import Dataset, Normalization
from pipeline.data.image_files import ImageFiles, class_folders, decode, header_size, list_files, to_bytes
from pipeline.data.memory import SMALL, MemorySplit, memory_dataset
from pipeline.data.streaming import CROP, FolderSplit
from pipeline.errors import DataError

MEMORY_BYTES: Final = 1_000_000_000
HEADERS: Final = 64


def is_image_folder(root: Path) -> bool:
    """Whether `root` has the two splits."""
    return (root / "train").is_dir() and any((root / name).is_dir() for name in ("val", "test"))


def load_folder(root: Path, *, limit_train: int | None, limit_test: int | None, workers: int) -> Dataset:
    """Open an image folder: in memory if the images are small and fit, else streamed at 224x224 pixels.

    Args:
        root: Folder with `train/` and `val/` (or, if there is none, `test/`), each with the same class folders.
        limit_train: Training images to keep; None keeps all.
        limit_test: Test images to keep; None keeps all.
        workers: Processes (streamed) or threads (in memory) that decode.

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
    return total <= MEMORY_BYTES and all(max(header) <= SMALL for header in headers)


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
