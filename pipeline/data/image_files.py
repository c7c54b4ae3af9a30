"""List and decode image files in folders, one folder per class."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from pipeline.data.dataset import mixed_order
from pipeline.errors import DataError

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


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
        """Return the first `count` files."""
        return self.part(0, count)

    def part(self, start: int, stop: int) -> "ImageFiles":
        """Return the files from index `start` up to, but without, index `stop`."""
        return ImageFiles(self.paths[start:stop], self.labels[start:stop])


def class_folders(split: Path) -> tuple[str, ...]:
    """Return the names of the class folders, sorted and without hidden folders.

    Raises:
        DataError: If there are fewer than two.
    """
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{split} must hold 2 class folders or more, got {len(names)}")
    return tuple(names)


def list_files(split: Path, classes: tuple[str, ...]) -> ImageFiles:
    """List the images of every class in a fixed random order, so that the first N are a random sample.

    Raises:
        DataError: If a class has no image.
    """
    found = [(path, label) for label, name in enumerate(classes) for path in _images_below(split / name)]
    order = mixed_order(len(found)).tolist()
    return ImageFiles(tuple(found[i][0] for i in order), tuple(found[i][1] for i in order))


def decode(path: str) -> Image.Image:
    """Read a file as an RGB image.

    Raises:
        DataError: If the file is not a complete image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read as an image ({reason}): it is damaged or of an unknown format"
        ) from error


def header_size(path: str) -> tuple[int, int]:
    """Read an image's height and width in pixels from its header alone.

    Raises:
        DataError: If the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as an image ({' '.join(str(error).split())}): it is damaged or of an unknown format"
        ) from error


def to_bytes(image: Image.Image) -> torch.Tensor:
    """Convert an RGB image to its pixels: uint8, (H, W, 3)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8))


def _images_below(folder: Path) -> list[str]:
    paths = [
        str(Path(where, name))
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not paths:
        raise DataError(f"{folder} must hold 1 image or more with one of the endings {', '.join(SUFFIXES)}, got none")
    return sorted(paths)
