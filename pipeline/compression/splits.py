"""Images of the caller in the form that the training loop reads."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from pipeline.compression.batches import labelled_batches
from pipeline.compression.checks import check_finite_images, check_labels, shapes_error
from pipeline.data.dataset import batch_indices, check_limit, mixed_order, seeded
from pipeline.errors import DataError
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.share import WHOLE, RankSlice


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """Images in memory; see ``pipeline.data.dataset.TrainingImages``. They are normalized and not augmented.

    Attributes:
        images: float32, (N, C, H, W).
        labels: int64, (N,); None yields labels of 0.
        order: int64, positions of the images in their order; None keeps all, as they are.
    """

    images: Tensor
    labels: Tensor | None = None
    order: Tensor | None = None
    digest: str = field(default="images in memory", init=False)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images if self.order is None else self.order)

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
        """Iterate once over the images; see ``Images.batches``."""
        generator = None if seed is None else seeded(seed)
        for batch, index in enumerate(batch_indices(len(self), batch_size, generator, augment=augment)):
            if batch >= start:
                mine = self._positions[index[share.of_batch(len(index))]].to(self.images.device)
                yield placed_batch(self.images[mine], None if self.labels is None else self.labels[mine], device)

    def part(self, start: int, stop: int) -> "TensorSplit":
        """Return a range of the images, without a copy; see ``TrainingImages.part``."""
        return replace(self, order=self._positions[start:stop])

    def mixed(self) -> "TensorSplit":
        """Return the images in a fixed random order, without a copy."""
        return replace(self, order=self._positions[mixed_order(len(self))])

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw ``count`` images; see ``TrainingImages.sample``."""
        drawn = torch.randperm(len(self), generator=seeded(seed))[: check_limit(count)]
        mine = self._positions[drawn[share.of(len(drawn))]].to(self.images.device)
        return placed_batch(self.images[mine], None, device)[0]

    @property
    def _positions(self) -> Tensor:
        return torch.arange(len(self.images)) if self.order is None else self.order


@dataclass(frozen=True, eq=False)
class LoaderSplit:
    """Images of an iterable of batches that is iterated anew in every epoch; see ``TrainingImages``.

    The iterable decides the order, the augmentation and the size of the batches.

    Attributes:
        source: The iterable.
        known: The first of its images, for ``part`` and ``sample``.
        count: Batches of an epoch. A shorter pass is followed by another one.
        batch_size: Number of images that the training loop counts for a batch.
        labelled: True if every batch has labels; otherwise they are 0.
        classes: Number of classes that labels may have; None if it is not known.
    """

    source: Iterable[Any]
    known: TensorSplit
    count: int
    batch_size: int
    labelled: bool
    classes: int | None = None
    digest: str = field(default="a caller's iterable", init=False)

    def __len__(self) -> int:
        """Return the number of images, as if all batches had ``batch_size`` of them."""
        return self.count * self.batch_size

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
        """Iterate over ``count`` batches as the iterable yields them, from ``start`` on; see ``Images.batches``.

        Raises:
            DataError: A pass of the iterable yields no batch, or a batch of another kind or of other channels. A value
                is not finite. Labels are missing, or a label is no class.
        """
        stream = RandomStream(seed or 0, torch.device("cpu"))
        for images, labels in islice(self._passes(stream), start, self.count):
            if self.labelled and labels is None:
                raise DataError(
                    "images: got a batch without labels after batches with labels; allowed: labels with all or none"
                )
            if labels is not None and self.classes is not None:
                check_labels(labels, self.classes)
            if images.shape[1] != self.known.images.shape[1]:
                raise shapes_error(self.known.images, images)
            yield placed_batch(check_finite_images(images), labels if self.labelled else None, device)

    def part(self, start: int, stop: int) -> TensorSplit:
        """Return a range of the first images; see ``TrainingImages.part``."""
        return self.known.part(start, stop)

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw from the first images; see ``TrainingImages.sample``."""
        return self.known.sample(count, seed=seed, device=device, share=share)

    def _passes(self, stream: RandomStream) -> Iterator[tuple[Tensor, Tensor | None]]:
        while True:
            found = 0
            for batch in _without_single_images(labelled_batches(self.source, stream)):
                found += 1
                yield batch
            if not found:
                raise DataError(
                    "images: got an iterable that yields nothing when it is iterated again; allowed: a DataLoader, a "
                    "tensor, or epochs=0"
                )


def _without_single_images(batches: Iterator[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Leave out batches of one image after larger ones: batch normalization cannot be trained on them."""
    largest = 0
    for batch in batches:
        largest = max(largest, len(batch[0]))
        if len(batch[0]) > 1 or largest == 1:
            yield batch


def placed_batch(images: Tensor, labels: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Move a batch to a device, the images in channels_last; labels are 0 if there are none."""
    x = images.to(device, memory_format=torch.channels_last)
    return x, torch.zeros(len(x), dtype=torch.int64, device=device) if labels is None else labels.to(device)
