"""Load image folders: find the two halves, choose the common size, and decode into memory or stream."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import torch

from pipeline.data.arrays import DARK
from pipeline.data.dataset import Dataset, Normalization
from pipeline.data.image_files import (
    ImageFiles,
    class_folders,
    decode,
    header_size,
    is_image,
    largest_of_16_bits,
    list_files,
    readable,
    to_bytes,
)
from pipeline.data.memory import PADDED_SIDE, SAME_IMAGES, MemorySplit, memory_dataset, resized
from pipeline.data.sizes import Size, common_size, fitted
from pipeline.data.streaming import CROP, FolderSplit
from pipeline.errors import DataError

TRAIN: Final = ("train", "training")
"""Names of the folder of training images, in the order in which they are looked for; case does not matter."""
TEST: Final = ("val", "valid", "validation", "test", "testing")
"""Names of the folder of test images, in the order in which they are looked for; case does not matter."""
MEMORY_BYTES: Final = 1_000_000_000
"""Largest size of a data set that is decoded into memory."""
HEADERS: Final = 256
"""Files of a split, a random sample, whose headers decide the common size."""
KINDS: Final = 4
"""Endings that a note lists before it only mentions others."""
DEEP: Final = 32
"""Training files, a random sample, whose largest 16-bit value is logged."""


def is_image_folder(root: Path, *, test_only: bool = False) -> bool:
    """Return True if ``root`` holds a folder of training images and one of test images; see ``TRAIN`` and ``TEST``.

    Args:
        root: The folder.
        test_only: True if the folder of test images is enough.
    """
    return (test_only or bool(_halves(root, TRAIN))) and bool(_halves(root, TEST))


def load_folder(
    root: Path,
    *,
    limit_train: int | None,
    limit_test: int | None,
    workers: int,
    image_size: Size | None = None,
    test_only: bool = False,
) -> Dataset:
    """Load an image folder into memory if its images are small and fit, else stream it.

    Images have the size that most of them have, or 224x224 if that is larger than 96 pixels.

    Args:
        root: Folder of ``train/`` and of ``val/``, ``valid/``, ``validation/`` or ``test/``. Both halves have the same
            class folders.
        limit_train: Training images to keep; None keeps all.
        limit_test: Test images to keep; None keeps all.
        workers: Number of processes (streamed) or threads (in memory) that decode.
        image_size: Another height and width of the images, in pixels.
        test_only: True to read no training images. The test images are the same as beside training images: the files in
            ``train/``, if it exists, still count for the common size and for the choice between memory and stream.

    Returns:
        The data set, named after the folder.

    Raises:
        DataError: The class folders of the splits differ, or an image is damaged. Or fewer than two classes of a split
            have images (one for ``test_only``).
    """
    test_folder, *others = _halves(root, TEST)
    halves = (*_halves(root, TRAIN)[:1], test_folder)
    notes = []
    if others:
        unused = ", ".join(f"{other.name}/" for other in others)
        notes.append(f"the test images are those in {test_folder.name}/; not used: {unused}")
    least = 1 if test_only else 2
    classes, folders = _same_classes(halves, least)
    listed = [list_files(each, least) for each in folders]
    lists = [files for files, _ in listed]
    notes += _left_out_notes(sum((others for _, others in listed), Counter()), halves)
    for files, half in zip(lists, halves, strict=True):
        notes += _empty_note(files, half, classes)
    notes += _deep_note(lists[0])
    if len(halves) > 1 and halves[0].samefile(halves[-1]):
        notes.append(SAME_IMAGES)
    found = [header_size(path) for files in lists for path in files.paths[:HEADERS]]
    size = common_size(found)
    limits = (limit_train, limit_test)[-len(lists) :]
    kept = [files.head(limit or len(files.paths)) for files, limit in zip(lists, limits, strict=True)]
    name, names, normalization = readable(root.resolve().name), tuple(map(readable, classes)), Normalization()
    total = sum(len(files.paths) for files in kept) * size[0] * size[1] * 3
    used = kept[-1:] if test_only else kept
    if total > MEMORY_BYTES or max(size) > PADDED_SIDE:
        if image_size is None and max(size) <= PADDED_SIDE:
            notes.append(_enlarged_note(size))
        size = image_size or (CROP, CROP)
        streamed = [FolderSplit(files, normalization, workers, size) for files in used]
        train = streamed[-1].part(0, 0) if test_only else streamed[0]
        return Dataset(name, len(names), names, size, train, streamed[-1], normalization, notes=tuple(notes))
    if image_size is None:
        notes += _mixed_note(found, size)
    decoded = [_in_memory(files, size, normalization, workers) for files in used]
    data = memory_dataset(name, names, None if test_only else decoded[0], decoded[-1], tuple(notes))
    return data if image_size is None else resized(data, image_size)


def _enlarged_note(size: Size) -> str:
    shape = f"{size[0]}x{size[1]}"
    return (
        f"the images of {shape} pixels take more than {MEMORY_BYTES / 1e9:g} GB, so they are streamed and enlarged to "
        f"{CROP}x{CROP}; --image-size {size[0]},{size[1]} keeps their size"
    )


def _halves(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders in ``root`` with one of the names, in the order of the names."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    return [folder for name in names for folder in folders if folder.name.lower() == name]


def _same_classes(halves: Sequence[Path], least: int) -> tuple[list[str], list[list[list[Path]]]]:
    """Return the names of the classes in the order of the first half, and for each half the folders of each class."""
    found = [class_folders(half, least) for half in halves]
    differ = sorted(found[0].keys() ^ found[-1].keys())
    if differ:
        raise DataError(
            f"{' and '.join(map(readable, halves))} must have the same class folders, but only one of "
            f"them has {', '.join(map(readable, differ[:3]))}"
        )
    return list(found[0]), [[half[name] for name in found[0]] for half in found]


def _left_out_notes(others: Counter[str], halves: Sequence[Path]) -> list[str]:
    """Return sentences about files of other endings, and about images outside class folders, if there are any."""
    notes = []
    if others:
        kinds = [f"{count:,} {ending or 'without one'}" for ending, count in others.most_common(KINDS)]
        more = ["others"] if len(others) > KINDS else []
        notes.append(f"files whose ending is not that of an image are left out: {', '.join(kinds + more)}")
    loose = {half.name: sum(is_image(each.name) and each.is_file() for each in half.iterdir()) for half in halves}
    if any(loose.values()):
        counts = ", ".join(f"{count:,} in {name}/" for name, count in loose.items() if count)
        notes.append(f"images outside the class folders are left out: {counts}")
    return notes


def _empty_note(files: ImageFiles, half: Path, classes: Sequence[str]) -> list[str]:
    """Return a sentence that counts the classes without images and names the first, if there are any."""
    filled = set(files.labels)
    empty = [readable(name) for label, name in enumerate(classes) if label not in filled]
    if not empty:
        return []
    return [f"{half.name}/ has no images in {len(empty):,} of {len(classes):,} class folders, the first is {empty[0]}"]


def _deep_note(files: ImageFiles) -> list[str]:
    """Return a sentence about images of 16 bits, if there are any."""
    largest = [value for value in map(largest_of_16_bits, files.paths[:DEEP]) if value is not None]
    if not largest:
        return []
    note = f"images of 16 bits have values of up to {max(largest)} in {len(largest)} of them: 65535 becomes 255"
    return [note if max(largest) >= DARK else f"{note}, so they are dark; images of 8 bits are taken as they are"]


def _mixed_note(found: Sequence[Size], size: Size) -> list[str]:
    """Return a sentence about the chosen size if the images have several."""
    kinds = len(set(found))
    if kinds == 1:
        return []
    chosen = "the most frequent size" if size in found and 2 * found.count(size) >= len(found) else "the median size"
    height, width = size
    return [
        f"the images have {kinds} sizes and are brought to {height}x{width} pixels, {chosen}; --image-size sets another"
    ]


def _in_memory(files: ImageFiles, size: Size, normalization: Normalization, workers: int) -> MemorySplit:
    def read(path: str) -> torch.Tensor:
        return to_bytes(fitted(decode(path), size))

    images = torch.empty(len(files.paths), *size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for index, image in enumerate(pool.map(read, files.paths)):
            images[index] = image
    return MemorySplit(images, torch.tensor(files.labels), normalization, flip=True)
