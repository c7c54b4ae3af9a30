"""Read images and labels from one ``.npz`` file."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch

from pipeline.data.arrays import Array, image_bytes, label_indices, text_of, with_channels_last
from pipeline.data.dataset import Dataset, default_normalization, mixed_order
from pipeline.data.image_files import readable
from pipeline.data.memory import MemorySplit, memory_dataset
from pipeline.errors import DataError
from pipeline.options.paths import is_system_error

MOST_CLASSES: Final = 100_000
"""Labels from here on are taken for damage, if the file has no class names."""
HALVES: Final = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
"""Half -> its names in arrays, in the order in which they are looked for."""
_LISTED: Final = 10
"""Number of classes that a note lists."""
_IMAGES: Final = ("x_{}", "{}_images", "{}_x", "images_{}", "{}_data")
_LABELS: Final = ("y_{}", "{}_labels", "{}_y", "labels_{}", "{}_label")
_CLASS_NAMES: Final = "class_names"
_ALLOWED: Final = (
    "x_train, y_train, x_test and y_test, or train_images, train_labels, test_images and test_labels (val instead of "
    "test is allowed)"
)


def load_npz(path: Path, classes: int | None = None, *, test_only: bool = False) -> Dataset:
    """Read a data set from a NumPy archive, without pickle.

    The first N images are a random sample even if the file is sorted by class: see ``mixed_order``.

    Args:
        path: The file, with the arrays of ``HALVES`` under Keras' names (x_train, y_train, ...) or MedMNIST's
            (train_images, train_labels, ...). See ``pipeline.data.arrays`` for their dtypes and shapes. The array
            ``class_names``, strings of shape (classes,), is optional. Images of three channels are mirrored in
            training, others never.
        classes: Number of classes if it is known; see ``label_indices``.
        test_only: True if the file may lack training images. Its test images may then be of a single class.

    Returns:
        The data set, named after the file.

    Raises:
        DataError: The file is damaged or incomplete, or an array has the wrong dtype, shape or values.
        OSError: The file cannot be opened or read.
    """
    shown = readable(path)
    arrays = _read(path, shown)
    names = _names(arrays, shown, test_only=test_only)
    notes = _unused(arrays, names)
    images = {half: with_channels_last(arrays[pair[0]], f"{pair[0]} of {shown}", notes) for half, pair in names.items()}
    sizes = [array.shape[1:] for array in images.values()]
    if sizes[0] != sizes[-1]:
        first, second = (pair[0] for pair in names.values())
        raise DataError(f"{first} and {second} of {shown} must hold images of one shape, got {sizes[0]} and {sizes[1]}")
    pixels = image_bytes(images, f"the images of {shown}", notes)
    given = _given_names(arrays, shown)
    labels = label_indices(
        {f"{pair[1]} of {shown}": arrays[pair[1]] for pair in names.values()},
        [len(array) for array in images.values()],
        given,
        notes,
        classes,
    )
    class_names = _class_names(labels.names or given, labels.classes - 1, shown, least=1 if test_only else 2)
    if not test_only:
        notes += _untrained(labels.indices, class_names)
    own = zip(pixels, pixels.values(), labels.indices, strict=True)
    splits = {half: _split(array, indices) for half, array, indices in own}
    return memory_dataset(
        readable(path.stem), class_names, splits.get("train"), splits["test"], tuple(dict.fromkeys(notes))
    )


def _read(path: Path, shown: str) -> Mapping[str, Array]:
    try:
        with path.open("rb") as file:
            if not is_zipfile(file):  # NumPy would take it for a pickle, and advise to load it unsafely
                raise BadZipFile("it is no zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                wanted = _wanted(archive.files)
                _check_case(archive.files, wanted)
                return {name: _array(archive, name) if name in wanted else np.empty(0) for name in archive.files}
    except _SpellingError as error:
        raise DataError(
            f"{shown} has the arrays {error}, whose names differ in case alone; allowed: one of them"
        ) from None
    except _ObjectsError as error:
        raise DataError(
            f"{error} of {shown} holds Python objects, which are not read; allowed: numbers, or strings by .astype(str)"
        ) from None
    except Exception as error:  # of a damaged archive: BadZipFile, zlib.error, EOFError, ValueError, SyntaxError, ...
        if isinstance(error, OSError) and is_system_error(error):
            raise
        reason = " ".join(readable(str(error)).split()) or type(error).__name__
        raise DataError(f"{shown} cannot be read as an .npz file ({reason}): it is damaged or truncated") from error


class _ObjectsError(ValueError):
    """An array holds Python objects; the message is its name."""


class _SpellingError(ValueError):
    """Several arrays have the name of one, because case does not matter; the message lists them."""


def _check_case(names: list[str], wanted: set[str]) -> None:
    for name in sorted(wanted):
        alike = [other for other in names if other.lower() == name.lower()]
        if len(alike) > 1:
            raise _SpellingError(" and ".join(alike))


def _array(archive: Any, name: str) -> Array:
    try:
        found: Array = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise _ObjectsError(name) from None
        raise
    return found


def _found(names: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of images and labels that an archive holds for each half, in the order of ``HALVES``."""
    by_name = {name.lower(): name for name in names}
    return {
        half: [
            (by_name[images.format(word)], by_name[labels.format(word)])
            for word in words
            for images, labels in product(_IMAGES, _LABELS)
            if images.format(word) in by_name and labels.format(word) in by_name
        ]
        for half, words in HALVES.items()
    }


def _wanted(names: list[str]) -> set[str]:
    firsts = [pairs[0] for pairs in _found(names).values() if pairs]
    return {name for pair in firsts for name in pair} | {name for name in names if name.lower() == _CLASS_NAMES}


def _names(arrays: Mapping[str, Array], shown: str, *, test_only: bool) -> dict[str, tuple[str, str]]:
    found = _found(list(arrays))
    missing = [half for half, pairs in found.items() if not pairs and (half == "test" or not test_only)]
    if missing:
        lacking = " and ".join(f"{half} images with labels" for half in missing)
        listed = ", ".join(map(readable, list(arrays)[:20])) or "nothing"
        raise DataError(f"{shown} lacks {lacking}; it holds {listed}; allowed: {_ALLOWED}")
    return {half: pairs[0] for half, pairs in found.items() if pairs}


def _unused(arrays: Mapping[str, Array], names: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return notes about further arrays of images with labels, of the halves that are used."""
    found = _found(list(arrays))
    notes = []
    for half, (used, _) in names.items():
        if others := sorted({images for images, _ in found[half]} - {used}):
            whole = "test" if half == "test" else "training"
            notes.append(f"the {whole} images are those in {used}; not used: {', '.join(others)}")
    return notes


def _untrained(indices: list[Array], class_names: tuple[str, ...]) -> list[str]:
    """Return a note about classes of test images that no training image has, if there are any."""
    train, test = (set(own.tolist()) for own in indices)
    missing = [class_names[index] for index in sorted(test - train)]
    if not missing:
        return []
    listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
    return [f"test images have classes that no training image has: {listed}"]


def _given_names(arrays: Mapping[str, Array], shown: str) -> tuple[str, ...] | None:
    array = next((array for name, array in arrays.items() if name.lower() == _CLASS_NAMES), None)
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise DataError(f"class_names of {shown} must be a list of strings, got {array.dtype} of shape {array.shape}")
    return tuple(map(text_of, array.tolist()))


def _class_names(given: tuple[str, ...] | None, largest: int, shown: str, least: int) -> tuple[str, ...]:
    if given is None and largest >= MOST_CLASSES:
        raise DataError(f"the labels of {shown} must be below {MOST_CLASSES}, got {largest}")
    names = tuple(map(str, range(largest + 1))) if given is None else given
    if largest >= len(names):
        raise DataError(
            f"the labels of {shown} must be below {len(names)}, the number of its class_names, got {largest}"
        )
    if len(names) < least:
        raise DataError(f"{shown} must have {least} class{'es' if least > 1 else ''} or more, got {len(names)}")
    return names


def _split(pixels: Array, labels: Array) -> MemorySplit:
    channels = pixels.shape[3]
    return MemorySplit(
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.from_numpy(labels.astype(np.int64)),
        default_normalization(3 if channels == 1 else channels),
        flip=channels == 3,
        order=mixed_order(len(labels)),
    )
