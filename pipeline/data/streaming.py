"""Stream large image folders: worker processes decode files while the network computes."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from pipeline.data.augment import random_boxes
from pipeline.data.dataset import Normalization, batch_indices, check_limit, seeded
from pipeline.data.image_files import ImageFiles, decode, to_bytes
from pipeline.data.loading import Item, load_batches
from pipeline.data.sizes import MARGIN, fitted
from pipeline.errors import DataError
from pipeline.runtime.share import WHOLE, RankSlice

CROP: Final = 224
"""Side in pixels of the network's input, without another size."""


@dataclass(frozen=True)
class FolderSplit:
    """Images on disk, read as RGB at one size; see ``pipeline.data.dataset.Split``.

    Each image is augmented by a generator of its own, seeded with the seed and the image's index. The batches therefore
    do not depend on the number of workers.

    Attributes:
        files: Paths and labels.
        normalization: Conversion from bytes to the network's input.
        workers: Number of processes that decode; 0 decodes in the calling process.
        size: Height and width of the images in batches, in pixels.
        flip: True if augmentation mirrors images.
    """

    files: ImageFiles
    normalization: Normalization
    workers: int
    size: tuple[int, int] = (CROP, CROP)
    flip: bool = True

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files.paths)

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device,
        seed: int | None = None,
        augment: bool = False,
        start: int = 0,
        share: RankSlice = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the images; see ``Split.batches``.

        Raises:
            DataError: A file is damaged; the message contains its path.
        """
        generator = None if seed is None else seeded(seed)
        batches = [
            index[share.of_batch(len(index))].tolist()
            for index in batch_indices(len(self), batch_size, generator, augment=augment)
        ]
        for images, labels in self._read(batches[start:], seed if augment else None):
            yield self.normalization.apply(images, device), labels.to(device)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the files' names, labels, sizes and modification times, and of their preprocessing."""
        digest = hashlib.sha256(repr((MARGIN, self.size, self.normalization, self.flip)).encode())
        root = os.path.commonpath(self.files.paths)
        for path, label in zip(self.files.paths, self.files.labels, strict=True):
            entry = Path(path).stat()
            line = f"{os.path.relpath(path, root)}\0{label}\0{entry.st_size}\0{entry.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def head(self, count: int) -> "FolderSplit":
        """Return the first ``count`` images, or all if there are fewer.

        Raises:
            OptionsError: ``count`` is below 1.
        """
        return self.part(0, check_limit(count))

    def part(self, start: int, stop: int) -> "FolderSplit":
        """Return a range of the images; see ``Split.part``."""
        return replace(self, files=self.files.part(start, stop))

    def unmirrored(self) -> "FolderSplit":
        """Return the same images, which augmentation does not mirror."""
        return replace(self, flip=False)

    def normalized(self, normalization: Normalization) -> "FolderSplit":
        """Return the same images for a network with another normalization."""
        return replace(self, normalization=normalization)

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw ``count`` images; see ``Split.sample``.

        Raises:
            DataError: A file is damaged; the message contains its path.
        """
        order = torch.randperm(len(self), generator=seeded(seed))[: check_limit(count)]
        batches = [index.tolist() for index in order[share.of(len(order))].split(64)]
        return torch.cat([self.normalization.apply(images, device) for images, _ in self._read(batches, None)])

    def _read(self, batches: Sequence[list[int]], seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        largest = max(map(len, batches), default=0) * self.size[0] * self.size[1] * 3
        return load_batches(
            _Files(self.files, self.size, self.flip, seed), batches, workers=self.workers, batch_bytes=largest
        )


class _Files(TorchDataset[Item]):
    """Decode images by index.

    A damaged image is returned as its error message, because an exception from a worker would carry a traceback.
    """

    def __init__(self, files: ImageFiles, size: tuple[int, int], flip: bool, seed: int | None) -> None:
        self.files = files
        self.size = size
        self.flip = flip
        self.seed = seed

    def __getitem__(self, index: int) -> Item:
        try:
            image = decode(self.files.paths[index])
        except DataError as error:
            return str(error)
        if self.seed is None:
            cropped = fitted(image, self.size, MARGIN)
        else:
            cropped, mirrored = _random(image, self.size, _image_seed(self.seed, index))
            if mirrored and self.flip:
                cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_bytes(cropped), self.files.labels[index]


def _image_seed(seed: int, index: int) -> int:
    return (seed * 1_000_003 + index) % 2**63


def _random(image: Image.Image, size: tuple[int, int], seed: int) -> tuple[Image.Image, bool]:
    """Resize a random box to a height and width in pixels; draw whether to mirror it, with probability one half."""
    generator = seeded(seed)
    top, left, tall, wide = random_boxes(1, image.height, image.width, generator)[0].tolist()
    cut = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(left, top, left + wide, top + tall))
    return cut, bool(torch.rand(1, generator=generator) < 0.5)
