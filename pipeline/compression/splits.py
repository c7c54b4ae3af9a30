"""Images of the caller in the form that the training loop reads."""

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from numbers import Integral
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from basis.errors import CompressionError
from pipeline.compression.checks import check_finite_images, check_labels, shapes_error
from pipeline.data.dataset import batch_indices, check_limit, mixed_order, seeded
from pipeline.errors import DataError
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.share import WHOLE, RankSlice

logger = logging.getLogger(__name__)

ALLOWED: Final = (
    "normalized images as a float tensor (N, C, H, W), a DataLoader, or an iterable of such tensors, of pairs "
    "(images, labels) or of dicts with both"
)
_LABEL_NAMES: Final = ("label", "labels", "target", "targets", "y", "class")


def labelled_batches(
    source: Iterable[Any], stream: RandomStream | None = None, *, needs_labels: bool = False
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Iterate once over a source of batches.

    Args:
        source: Yields tensors (N, C, H, W), pairs of a tensor and labels, or dicts that hold both. A single image,
            (C, H, W), is a batch of one. Labels are integers, (N,) or (N, 1); others are left out. NumPy arrays count
            as tensors.
        stream: Random numbers for the source's order and augmentation; None takes torch's global generators.
        needs_labels: True to warn of a first batch whose labels are left out.

    Returns:
        Pairs of images, float32 (N, C, H, W), and labels, int64 (N,), or None.

    Raises:
        DataError: A batch is of another kind, or the source raises an error.
    """
    for item in _items(source, stream):
        item = _pair(item) if isinstance(item, Mapping) else item
        images, *labels = item if isinstance(item, list | tuple) and item else [item]
        images = as_tensor(images)
        if not isinstance(images, Tensor):
            raise DataError(
                f"images: got a batch of type {type(images).__name__}; allowed: tensors (N, C, H, W), pairs of such a "
                "tensor and labels, or dicts with both"
            )
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4 or not images.is_floating_point() or not images.numel():
            raise DataError(
                f"images: got a batch of {images.dtype} of the shape {tuple(images.shape)}; allowed: normalized "
                "floats, (N, C, H, W)"
            )
        found = _labels(labels[0], len(images)) if len(labels) == 1 else None
        if needs_labels and labels and found is None:
            logger.warning(
                "images: what stands beside the images is left out, and the training has no labels; labels are "
                "integers, (N,), in pairs (images, labels), or in dicts under one name such as 'label'"
            )
        needs_labels = False
        yield images.detach().float(), found


def as_tensor(value: Any) -> Any:
    """Return a NumPy array as a tensor with memory of its own, and any other value unchanged."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif":
        return value
    native = value.astype(value.dtype.newbyteorder("=") if value.dtype.itemsize <= 8 else np.float64, copy=False)
    return torch.tensor(np.ascontiguousarray(native))  # torch takes no negative strides


def as_labels(value: Any) -> Any:
    """Return an integer or a list of integers as a tensor, and any other value as ``as_tensor`` does."""
    values = value if isinstance(value, list | tuple) else [value]
    whole = bool(values) and all(isinstance(each, Integral) and not isinstance(each, bool) for each in values)
    return torch.tensor([int(each) for each in values]) if whole else as_tensor(value)


def _pair(batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the images of a dict, its only floats of three axes or more, and what may be its labels.

    Labels are the entry with one of ``_LABEL_NAMES``, or else the only integers, (N,) or (N, 1). If there is no such
    entry, or several, None stands for the other entries.

    Raises:
        DataError: There are no such images, or several.
    """
    tensors = {name: found for name, value in batch.items() if isinstance(found := as_labels(value), Tensor)}
    images = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim >= 3]
    if len(images) != 1:
        entries = ", ".join(map(str, batch)) or "none"
        raise DataError(
            f"images: got a batch of type {type(batch).__name__} with the entries {entries}; allowed: a dict "
            "with one float tensor (N, C, H, W), or pairs of images and labels"
        )
    others = {str(name): value for name, value in batch.items() if name != images[0]}
    classes = [
        tensor
        for name, tensor in tensors.items()
        if not tensor.is_floating_point() and (tensor.ndim == 1 or (tensor.ndim == 2 and tensor.shape[1] == 1))
    ]
    found = [others[name] for name in _LABEL_NAMES if name in others] or classes
    return (tensors[images[0]], *((found if len(found) == 1 else [None]) if others else []))


def _items(source: Iterable[Any], stream: RandomStream | None) -> Iterator[Any]:
    """Iterate over a source; draw from the stream while it works, and not while its batches are used."""
    if stream is None:
        yield from source
        return
    with stream.drawn_from(), _described():
        iterator = iter(source)
    while True:
        with stream.drawn_from(), _described():
            item = next(iterator, _END)
        if item is _END:
            return
        yield item


@contextmanager
def _described() -> Generator[None]:
    """Describe errors of a source."""
    try:
        yield
    except CompressionError:
        raise
    except Exception as error:  # a caller's code raises anything, and a loader cannot stack images that are no arrays
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"images: got a source that cannot be read ({reason}); allowed: {ALLOWED}") from error


_END = object()


def _labels(values: object, count: int) -> Tensor | None:
    """Return the labels of a batch; None if the values are no classes."""
    values = as_labels(values)
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        return None
    if values.ndim == 1 and len(values) != count:
        raise DataError(f"images: got {len(values)} labels for {count} images; allowed: one label for each image")
    fits = values.numel() == count and values.shape in ((count,), (count, 1), ()) and values.dtype != torch.bool
    return values.detach().long().reshape(count) if fits else None


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """Images in memory; see `pipeline.data.dataset.TrainingImages`. They are normalized and not augmented.

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
        """Iterate once over the images; see `Images.batches`."""
        generator = None if seed is None else seeded(seed)
        for batch, index in enumerate(batch_indices(len(self), batch_size, generator, augment=augment)):
            if batch >= start:
                mine = self._positions[index[share.of_batch(len(index))]].to(self.images.device)
                yield placed_batch(self.images[mine], None if self.labels is None else self.labels[mine], device)

    def part(self, start: int, stop: int) -> "TensorSplit":
        """Return a range of the images, without a copy; see `TrainingImages.part`."""
        return replace(self, order=self._positions[start:stop])

    def mixed(self) -> "TensorSplit":
        """Return the images in a fixed random order, without a copy."""
        return replace(self, order=self._positions[mixed_order(len(self))])

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw `count` images; see `TrainingImages.sample`."""
        drawn = torch.randperm(len(self), generator=seeded(seed))[: check_limit(count)]
        mine = self._positions[drawn[share.of(len(drawn))]].to(self.images.device)
        return placed_batch(self.images[mine], None, device)[0]

    @property
    def _positions(self) -> Tensor:
        return torch.arange(len(self.images)) if self.order is None else self.order


@dataclass(frozen=True, eq=False)
class LoaderSplit:
    """Images of an iterable of batches that is iterated anew in every epoch; see `TrainingImages`.

    The iterable decides the order, the augmentation and the size of the batches.

    Attributes:
        source: The iterable.
        known: The first of its images, for `part` and `sample`.
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
        """Return the number of images, as if all batches had `batch_size` of them."""
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
        """Iterate over `count` batches as the iterable yields them, from `start` on; see `Images.batches`.

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
        """Return a range of the first images; see `TrainingImages.part`."""
        return self.known.part(start, stop)

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw from the first images; see `TrainingImages.sample`."""
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
