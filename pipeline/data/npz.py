"""Read images and labels from one `.npz` file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.dataset import Dataset, Normalization, mixed_order
from pipeline.data.memory import MemorySplit, memory_dataset
from pipeline.errors import DataError

Array = npt.NDArray[Any]
REQUIRED: Final = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES: Final = 100_000
"""Labels from here on are taken for damage, if the file has no class names."""


def load_npz(path: Path) -> Dataset:
    """Read a data set from a NumPy archive, without pickle.

    The first N images are a random sample even if the file is sorted by class: see `mixed_order`.

    Args:
        path: The file. It holds x_train and x_test, uint8 of shape (N, H, W, 3), (N, H, W, 1) or (N, H, W); y_train
            and y_test, integers of shape (N,) or (N, 1); and optionally class_names, strings of shape (classes,).
            Images of one channel are repeated to three channels and never mirrored.

    Returns:
        The data set, named after the file.

    Raises:
        DataError: If the file is damaged or incomplete, or if an array has the wrong dtype, shape or values.
    """
    arrays = _read(path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}, "
            f"and {', '.join(REQUIRED)} are needed"
        )
    images = {half: _images(arrays[f"x_{half}"], f"x_{half} of {path}") for half in ("train", "test")}
    labels = {
        half: _labels(arrays[f"y_{half}"], len(images[half]), f"y_{half} of {path}") for half in ("train", "test")
    }
    sizes = [array.shape[1:] for array in images.values()]
    if sizes[0] != sizes[1]:
        raise DataError(f"x_train and x_test of {path} must hold images of one shape, got {sizes[0]} and {sizes[1]}")
    names = _class_names(arrays.get("class_names"), max(int(array.max()) for array in labels.values()), path)
    splits = [_split(images[half], labels[half]) for half in ("train", "test")]
    return memory_dataset(path.stem, names, *splits)


def _read(path: Path) -> Mapping[str, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in (*REQUIRED, "class_names")}
    except Exception as error:  # of a damaged archive: BadZipFile, zlib.error, EOFError, ValueError, SyntaxError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as an .npz file ({reason}): it is damaged, truncated, or holds Python objects"
        ) from error


def _images(array: Array, what: str) -> Array:
    if array.dtype != np.uint8:
        raise DataError(f"{what} must be uint8 with values 0 to 255, got {array.dtype}")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(f"{what} must have the shape (N, H, W, 3), (N, H, W, 1) or (N, H, W), got {array.shape}")
    if 0 in array.shape:
        raise DataError(f"{what} must hold 1 image or more, got the shape {array.shape}")
    return array


def _labels(array: Array, count: int, what: str) -> Array:
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} must hold integers, got {array.dtype}")
    if array.shape not in ((count,), (count, 1)):
        raise DataError(f"{what} must have one label for each of the {count} images, got the shape {array.shape}")
    if array.min() < 0:
        raise DataError(f"{what} must hold labels of 0 or more, got {array.min()}")
    return array.reshape(-1)


def _class_names(array: Array | None, largest: int, path: Path) -> tuple[str, ...]:
    if array is not None and (array.ndim != 1 or array.dtype.kind not in "US"):
        raise DataError(f"class_names of {path} must be a list of strings, got {array.dtype} of shape {array.shape}")
    if array is None and largest >= MOST_CLASSES:
        raise DataError(f"the labels of {path} must be below {MOST_CLASSES}, got {largest}")
    names = tuple(map(str, range(largest + 1))) if array is None else tuple(map(_text, array.tolist()))
    if largest >= len(names):
        raise DataError(
            f"the labels of {path} must be below {len(names)}, the number of its class_names, got {largest}"
        )
    if len(names) < 2:
        raise DataError(f"{path} must have 2 classes or more, got {len(names)}")
    return names


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _split(images: Array, labels: Array) -> MemorySplit:
    colour = images.shape[3] == 3
    pixels = np.ascontiguousarray(images if colour else np.repeat(images, 3, axis=3))
    return MemorySplit(
        torch.from_numpy(pixels),
        torch.from_numpy(labels.astype(np.int64)),
        Normalization(),
        flip=colour,
        order=mixed_order(len(labels)),
    )
