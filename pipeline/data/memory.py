"""Splits whose images are in memory as bytes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from pipeline.data.augment import random_crop, random_flip, random_resized_crop
from pipeline.data.dataset import Dataset, Normalization, batch_indices, check_limit, seeded
from pipeline.data.sizes import covered
from pipeline.runtime.share import WHOLE, RankSlice

PADDED_SIDE: Final = 96
"""Largest image side, in pixels, that is augmented by padded crops; larger images get random boxes."""
PADDING: Final = 1 / 16
"""Padding of a crop as a part of the shorter side: 2 pixels at 32, measured in docs/training.md."""
SAME_IMAGES: Final = "the training and the test images are the same, so that Top-1 is measured on training images"
"""Note about a data set whose halves hold the same images."""
HASHED_IMAGES: Final = 4096
"""Images that are copied at once to compute a digest."""


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """Images and labels in memory; see ``pipeline.data.dataset.Split``.

    ``order`` decides the sequence of ``head``, ``part`` and batches without a seed. Draws with a seed are made from the
    kept images as they are stored, so that they do not depend on that sequence.

    Attributes:
        images: uint8, (M, H, W, C), as stored.
        labels: int64, (M,), as stored.
        normalization: Conversion from bytes to the network's input.
        flip: True if augmentation mirrors images; False for digits and letters.
        order: int64, (N,): positions of the N kept images among the M stored ones; None keeps all, as stored.
        size: Height and width of the images in batches; None for the stored ones. Resizing follows augmentation.
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization
    flip: bool
    order: Tensor | None = None
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Return the number of kept images."""
        return len(self._positions)

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
        """Iterate once over the images; see ``Split.batches``."""
        generator = None if seed is None else seeded(seed)
        positions = self._positions if seed is None else self._stored_positions
        for batch, index in enumerate(batch_indices(len(self), batch_size, generator, augment=augment)):
            picked = positions[index]
            images = self.images[picked]
            if augment and generator is not None:
                images = self._augmented(images, generator)  # skipped batches too: they advance the generator
            if batch >= start:
                mine = share.of_batch(len(index))
                yield self._input(images[mine], device), self.labels[picked[mine]].to(device)

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex of the kept pixels and labels, their order, the normalization, the flips and the size."""
        shape = (len(self), *self.images.shape[1:])
        digest = hashlib.sha256(repr((shape, self.normalization, self.flip, self.size)).encode())
        for positions in self._positions.split(HASHED_IMAGES):
            digest.update(self.images[positions].numpy().data)
        digest.update(self.labels[self._positions].numpy().data)
        digest.update(self._positions.argsort().numpy().data)
        return digest.hexdigest()

    def head(self, count: int) -> "MemorySplit":
        """Return the first ``count`` images, or all if there are fewer.

        Raises:
            OptionsError: ``count`` is below 1.
        """
        return self.part(0, check_limit(count))

    def part(self, start: int, stop: int) -> "MemorySplit":
        """Return a range of the images, without a copy of the pixels; see ``Split.part``."""
        return replace(self, order=self._positions[start:stop])

    def unmirrored(self) -> "MemorySplit":
        """Return the same images, which augmentation does not mirror."""
        return replace(self, flip=False)

    def normalized(self, normalization: Normalization) -> "MemorySplit":
        """Return the same images for a network with another normalization."""
        return replace(self, normalization=normalization)

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw ``count`` images; see ``Split.sample``."""
        drawn = torch.randperm(len(self), generator=seeded(seed))[: check_limit(count)]
        picked = self._stored_positions[drawn[share.of(len(drawn))]]
        return self._input(self.images[picked], device)

    def _input(self, images: Tensor, device: torch.device) -> Tensor:
        sized = images if self.size is None else covered(images, self.size)
        return self.normalization.apply(sized, device)

    @cached_property
    def _positions(self) -> Tensor:
        return torch.arange(len(self.images)) if self.order is None else self.order

    @cached_property
    def _stored_positions(self) -> Tensor:
        return self._positions.sort().values

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        small = max(images.shape[1:3]) <= PADDED_SIDE
        padding = max(1, round(PADDING * min(images.shape[1:3])))
        cropped = random_crop(images, padding, generator) if small else random_resized_crop(images, generator)
        return random_flip(cropped, generator) if self.flip else cropped


def memory_dataset(
    name: str, class_names: tuple[str, ...], train: MemorySplit | None, test: MemorySplit, notes: tuple[str, ...] = ()
) -> Dataset:
    """Build a data set from two splits in memory.

    Args:
        name: Short name for reports.
        class_names: One name per class.
        train: Training images; None if there are none.
        test: Test images, of the same height, width and channels.
        notes: See ``Dataset``. A note is added if both splits hold the same images.
    """
    if train is not None and _are_same(train, test) and SAME_IMAGES not in notes:
        notes = (*notes, SAME_IMAGES)
    train = test.part(0, 0) if train is None else train
    height, width, channels = test.images.shape[1:]
    size = test.size or (height, width)
    return Dataset(
        name, len(class_names), class_names, size, train, test, train.normalization, channels=channels, notes=notes
    )


def _are_same(one: MemorySplit, other: MemorySplit) -> bool:
    """Return True if two splits are made from the same images and labels, whichever of them they keep."""
    return torch.equal(one.labels, other.labels) and torch.equal(one.images, other.images)


def resized(dataset: Dataset, size: tuple[int, int]) -> Dataset:
    """Return a data set in memory whose batches have another height and width; see ``pipeline.data.sizes``."""
    if size == dataset.image_size:
        return dataset
    before = "x".join(map(str, dataset.image_size))
    note = f"images of {before} pixels are resized to {size[0]}x{size[1]}"
    train, test = dataset.train, dataset.test
    if not isinstance(train, MemorySplit) or not isinstance(test, MemorySplit):
        raise TypeError("only data in memory is resized after loading")
    return replace(
        dataset,
        image_size=size,
        train=replace(train, size=size),
        test=replace(test, size=size),
        notes=(*dataset.notes, note),
    )
