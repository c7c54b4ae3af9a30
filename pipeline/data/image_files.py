"""List and decode image files in folders, one folder per class."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageOps

from pipeline.data.arrays import MOST_16_BIT, Array, bytes_of_16_bits
from pipeline.data.dataset import mixed_order
from pipeline.errors import DataError
from pipeline.options.paths import is_system_error
from reports.text import quantity

SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_NO_CLASS: Final = (".", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Beginnings of the names of folders that hold no images: hidden ones, and those that systems add by themselves."""
_NO_FILE: Final = ("Thumbs.db", "desktop.ini")
"""Names of files that systems add by themselves."""
_ORIENTATION: Final = 0x0112  # EXIF tag
_BITS, _PLANAR, _ONE_PLANE_EACH = 258, 284, 2  # TIFF tags BitsPerSample and PlanarConfiguration, and a value of it
_TURNED: Final = (5, 6, 7, 8)  # orientations whose height and width are exchanged


@dataclass(frozen=True)
class ImageFiles:
    """Files of one split, in an order that mixes the classes.

    Attributes:
        paths: One path per image.
        labels: One class index per image.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def head(self, count: int) -> "ImageFiles":
        """Return the first ``count`` files."""
        return self.part(0, count)

    def part(self, start: int, stop: int) -> "ImageFiles":
        """Return the files from index ``start`` up to, but without, index ``stop``."""
        return ImageFiles(self.paths[start:stop], self.labels[start:stop])


def class_folders(split: Path, least: int = 2) -> dict[str, list[Path]]:
    """Return the folders of each class in the order of their names, without hidden folders and those that systems add.

    Names that differ only in Unicode normalization are one class: macOS decomposes letters with accents (NFD), and
    other systems keep them composed (NFC).

    Args:
        split: The folder of one half.
        least: Smallest number of classes.

    Returns:
        Name of the class in NFC -> its folders.

    Raises:
        DataError: There are fewer than ``least`` classes, or a link, which may be one to a class, leads nowhere.
    """
    found: dict[str, list[Path]] = {}
    for folder in sorted(entry for entry in split.iterdir() if not entry.name.startswith(_NO_CLASS)):
        if folder.is_symlink() and not folder.exists():
            raise DataError(f"{readable(folder)} is a link that leads nowhere; allowed: links to class folders")
        if folder.is_dir():
            found.setdefault(unicodedata.normalize("NFC", folder.name), []).append(folder)
    if len(found) < least:
        raise DataError(f"{readable(split)} must hold {quantity(least, 'class folder')} or more, got {len(found)}")
    return found


def list_files(classes: Sequence[Sequence[Path]], least: int = 2) -> tuple[ImageFiles, Counter[str]]:
    """List the images of every class in a fixed random order, so that the first N are a random sample.

    A class may be without images, as in a small sample of a data set of many classes.

    Args:
        classes: Folders of each class.
        least: Smallest number of classes with images.

    Returns:
        The images, and ending in lower case -> number of other files. Files that are hidden or added by systems do not
        count.

    Raises:
        DataError: Fewer than ``least`` classes have images.
    """
    files = [
        (path, label) for label, folders in enumerate(classes) for folder in folders for path in _files_below(folder)
    ]
    found = [(path, label) for path, label in files if is_image(path)]
    others = Counter(Path(readable(path)).suffix.lower() for path, _ in files if not is_image(path))
    filled = {label for _, label in found}
    if len(filled) < least:
        raise _no_images(classes, filled, least)
    order = mixed_order(len(found)).tolist()
    return ImageFiles(tuple(found[i][0] for i in order), tuple(found[i][1] for i in order)), others


def is_image(path: str) -> bool:
    """Return True if a file has the ending of an image."""
    return path.lower().endswith(SUFFIXES)


def decode(path: str) -> Image.Image:
    """Read a file as an RGB image, upright by its EXIF orientation; of an animation, the first frame.

    The conversion is Pillow's ``convert("RGB")``, as in torchvision. It drops transparency. Gray values of 16 bits are
    divided by 257. Of colours of 16 bits, the high byte is kept.

    Raises:
        DataError: The file is not a complete image, its values are floats or integers of 32 bits, or it is a TIFF file
            that Pillow misreads.
    """
    try:
        with Image.open(path) as image:
            _check_mode(image, path)
            return _as_rgb(_upright(image), path)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise _unreadable(path, error) from error


def header_size(path: str) -> tuple[int, int]:
    """Read an image's height and width in pixels from its header alone, as ``decode`` returns them.

    Raises:
        DataError: The file is not an image, or its values are floats.
    """
    try:
        with Image.open(path) as image:
            _check_mode(image, path)
            turned = _orientation(image) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def largest_of_16_bits(path: str) -> int | None:
    """Return the largest value of an image of 16 bits; None for any other image, also for a damaged one.

    Pillow reads only the high byte of colours of 16 bits, so that their low byte counts as 255.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                return int(np.asarray(image).max())
            deep = any(";16" in str(tile.args) for tile in image.tile)
            return 256 * int(np.asarray(image.convert("RGB")).max()) + 255 if deep else None
    except Exception:  # as in `decode`, which refuses the file when its turn comes
        return None


def to_bytes(image: Image.Image) -> torch.Tensor:
    """Convert an RGB image to its pixels: uint8, (H, W, 3)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8))


def readable(name: str | Path) -> str:
    r"""Return a name of a file as valid text: bytes that are not UTF-8 become ``\xNN``."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _unreadable(path: str, error: Exception) -> DataError:
    if isinstance(error, OSError) and is_system_error(error):
        return DataError(f"{readable(path)} cannot be read: {error.strerror}; allowed: an image that can be read")
    reason = " ".join(readable(str(error)).split())
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"{readable(path)} has too many pixels ({reason}); allowed: a smaller image")
    return DataError(f"{readable(path)} cannot be read as an image ({reason}): it is damaged or of an unknown format")


def _check_mode(image: Image.Image, path: str) -> None:
    if image.mode == "F":
        raise DataError(
            f"{readable(path)} has pixels of type float (mode F), whose range is unknown; allowed: images of 8 bits, "
            "or gray images of 16 bits"
        )
    tags, tiles = getattr(image, "tag_v2", {}), getattr(image, "tile", ())
    if image.mode == "I" and max(tags.get(_BITS, (1,))) > 16:
        raise DataError(
            f"{readable(path)} has integers of 32 bits, whose range is unknown; allowed: images of 8 bits, or gray "
            "images of 16 bits"
        )
    planes = tags.get(_PLANAR) == _ONE_PLANE_EACH and any(tile.codec_name == "raw" for tile in tiles)
    if planes and max(tags.get(_BITS, (1,))) > 8:  # Pillow takes their bytes for values of 8 bits
        raise DataError(
            f"{readable(path)} is an uncompressed TIFF file of 16 bits with one plane for each channel, which Pillow "
            "misreads; allowed: the channels of a pixel side by side, or compression"
        )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) without EXIF data or with damaged ones."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as with decoders, of any type
        return 1
    return found if isinstance(found, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _as_rgb(image: Image.Image, path: str) -> Image.Image:
    if image.mode.startswith(
        "I"
    ):  # gray: I;16 and its byte orders, or I, as which Pillow reads 16 bits of some formats
        return Image.fromarray(_scaled(np.asarray(image), path)).convert("RGB")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA").convert("RGB")  # the same colours, without Pillow's warning
    return image.convert("RGB")


def _scaled(values: Array, path: str) -> Array:
    """Scale gray values of 0 to 65535 to bytes."""
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > MOST_16_BIT:
        raise DataError(
            f"{readable(path)} has gray values of {least} to {most}; allowed: images of 8 bits, or gray images of 16 "
            f"bits, 0 to {MOST_16_BIT}"
        )
    return bytes_of_16_bits(values)


def _files_below(folder: Path) -> list[str]:
    """Return the files in a folder and in those below it, sorted; those of ``_NO_CLASS`` are left out.

    Raises:
        DataError: A folder cannot be read, an image is no regular file, or a link leads to a folder that holds it.
    """
    above = tuple((stat.st_dev, stat.st_ino) for stat in map(os.stat, (folder.resolve(), *folder.resolve().parents)))
    return sorted(_walked(str(folder), above[1:]))


def _walked(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        found, entries = Path(folder).stat(), list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"{readable(folder)} cannot be read: {error.strerror}") from error
    own = (found.st_dev, found.st_ino)
    if own in above:
        raise DataError(f"{readable(folder)} is a link to a folder that holds it, so that its images would repeat")
    for entry in entries:
        if _leads_to(entry, os.DirEntry.is_dir):
            if entry.name.startswith(_NO_CLASS):
                continue
            yield from _walked(entry.path, (*above, own))
        elif not entry.name.startswith(".") and entry.name not in _NO_FILE:
            if is_image(entry.name) and not _leads_to(entry, os.DirEntry.is_file) and Path(entry.path).exists():
                raise DataError(f"{readable(entry.path)} is no regular file; allowed: image files and links to them")
            yield entry.path


def _leads_to(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link to itself; decoding the image describes it
        return False


def _no_images(classes: Sequence[Sequence[Path]], filled: set[int], least: int) -> DataError:
    empty = next(folders[0] for label, folders in enumerate(classes) if label not in filled)
    return DataError(
        f"{readable(empty)} must hold 1 image or more with one of the endings {', '.join(SUFFIXES)}, got none; "
        f"{'2 classes or more need' if least > 1 else '1 class or more needs'} images"
    )
