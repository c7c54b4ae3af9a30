"""Small data: all images of a split in memory as bytes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from pipeline.data.augment import random_crop, random_flip, random_resized_crop
from pipeline.data.dataset import Dataset, Normalization, batch_indices, check_limit, seeded
from pipeline.runtime.share import WHOLE, RankSlice

SMALL: Final = 96
"""Largest side, in pixels, of an image that is cropped by padding; larger ones by a random box."""
TINY: Final = 32
"""Side, in pixels, below which an image is cropped by 4 pixels of padding, else by 2: see docs/training.md."""


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """Images and labels in memory; see `pipeline.data.dataset.Split`.

    Attributes:
        images: uint8, (N, H, W, 3).
        labels: int64, (N,).
        normalization: How bytes become the network's input.
        flip: Whether augmentation mirrors images; not for digits and letters.
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization
    flip: bool

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

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
        """Go once over the images; see `Split.batches`."""
        generator = None if seed is None else seeded(seed)
        for batch, index in enumerate(batch_indices(len(self), batch_size, generator, augment=augment)):
            images = self.images[index]
            if augment and generator is not None:
                images = self._augmented(images, generator)  # of batches before the first too: it draws for them
            if batch >= start:
                mine = share.of_batch(len(index))
                yield self.normalization.apply(images[mine], device), self.labels[index[mine]].to(device)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of every pixel and label, and of what becomes of them."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.normalization, self.flip)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def head(self, count: int) -> "MemorySplit":
        """The first `count` images, or all if there are fewer.

        Raises:
            OptionsError: If `count` is below 1.
        """
        return self.part(0, check_limit(count))

    def part(self, start: int, stop: int) -> "MemorySplit":
        """Some neighbouring images; see `Split.part`."""
        return replace(self, images=self.images[start:stop], labels=self.labels[start:stop])

    def normalized(self, normalization: Normalization) -> "MemorySplit":
        """The same images for a network of another normalization."""
        return replace(self, normalization=normalization)

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw `count` images; see `Split.sample`."""
        index = torch.randperm(len(self), generator=seeded(seed))[: check_limit(count)]
        return self.normalization.apply(self.images[index[share.of(len(index))]], device)

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        small = max(images.shape[1:3]) <= SMALL
        padding = 4 if min(images.shape[1:3]) < TINY else 2
        cropped = random_crop(images, padding, generator) if small else random_resized_crop(images, generator)
        return random_flip(cropped, generator) if self.flip else cropped


def memory_dataset(name: str, class_names: tuple[str, ...], train: MemorySplit, test: MemorySplit) -> Dataset:
    """Make a data set of two splits in memory."""
    height, width = train.images.shape[1:3]
    return Dataset(name, len(class_names), class_names, (height, width), train, test, train.normalization)
