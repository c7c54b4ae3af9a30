"""Read the caller's images: tensors, loaders, data sets and any other iterable of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data import Dataset as TorchDataset

from pipeline.compression.batches import ALLOWED, as_labels, as_tensor, dict_entries, labelled_batches
from pipeline.compression.checks import check_finite_images, shapes_error
from pipeline.compression.splits import LoaderSplit, TensorSplit
from pipeline.data.dataset import TrainingImages, images_at_once, seeded
from pipeline.errors import DataError
from pipeline.runtime.randomness import RandomStream

Images: TypeAlias = Tensor | tuple[Tensor, Tensor] | Iterable[Any]
"""A tensor, (N, C, H, W); a pair or a dict of it and labels, (N,); a data set; or an iterable of batches, with or
without labels.
"""

MOST_COUNTED: Final = 1_000_000
"""Most batches of a source without a length."""
_CPU: Final = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class CallerImages:
    """The caller's images.

    Attributes:
        calibration: Images for the fit and for rounding, float32, (N, C, H, W).
        labels: Their classes, int64, (N,); None if not all images have one.
        training: Images for training.
    """

    calibration: Tensor
    labels: Tensor | None
    training: TrainingImages


def read_images(images: Images, *, count: int, seed: int, batch_size: int, train: bool) -> CallerImages:
    """Read calibration images, and prepare training on the same source.

    A tensor is sampled at random. Of every other source the first images are read, at most ``count`` of them. Training
    passes over the whole source in every epoch. Of a source that can be iterated only once, it uses the calibration
    images.

    Args:
        images: See ``Images``. They are iterated with random generators of their own: the caller's do not change.
        count: Most calibration images. Large images have a lower limit: ``pipeline.data.dataset.images_at_once``.
        seed: Seed of the sample, and of the source's order.
        batch_size: Images per training step, for a source without batches.
        train: True if a training follows.

    Raises:
        DataError: The source is empty or of another kind, or its images are not finite floats of one shape.
    """
    source: Any = dict_entries(images) if isinstance(images, Mapping) else as_tensor(images)
    if type(source) in (list, tuple):
        source = type(source)(map(as_tensor, source))
    whole = _whole(source, train)
    if whole is not None:
        return _sampled(*(check_finite_images(whole[0]), whole[1]) if train else whole, count=count, seed=seed)
    if _is_map_style(source, seed):
        source = DataLoader(source, batch_size=batch_size, shuffle=True)
    if not isinstance(source, Iterable):
        raise DataError(f"images: got {type(source).__name__}; allowed: {ALLOWED}")
    calibration = _first_images(source, count, seed, train)
    training: TrainingImages = calibration
    if train and not isinstance(source, Iterator):
        batches = _number_of_batches(source, seed)
        training = LoaderSplit(source, calibration, batches, batch_size, labelled=calibration.labels is not None)
    return CallerImages(check_finite_images(calibration.images), calibration.labels, training)


def _whole(source: Any, train: bool) -> tuple[Tensor, Tensor | None] | None:
    """Return images and labels if they are tensors of all images; None for another source."""
    if isinstance(source, list | tuple) and source and all(isinstance(x, Tensor) and x.ndim == 3 for x in source):
        if len({image.shape for image in source}) > 1:
            raise DataError(f"images: got images of several shapes in a {type(source).__name__}; allowed: one shape")
        source = torch.stack(tuple(source))
    images, *others = source if isinstance(source, tuple | list) and len(source) > 1 else [source]
    others = [as_labels(other) for other in others]
    if not isinstance(images, Tensor) or not all(_is_beside(images, other) for other in others):
        return None
    return next(labelled_batches([(images, *others)], needs_labels=train))


def _is_beside(images: Tensor, other: object) -> bool:
    """Return True for a tensor of labels, or of targets such as masks, and False for a second batch of images."""
    if not isinstance(other, Tensor):
        return False
    return other.ndim != 4 or (images.ndim == 4 and len(other) == len(images) and other.shape[1] != images.shape[1])


def _is_map_style(source: Any, seed: int) -> bool:
    """Return True for a data set of single images: torch's, or any object with ``len()`` and ``[]``.

    Of an object that is iterable too, such as a list, the first item decides: it may be a batch.
    """
    if isinstance(source, TorchDataset):
        return not isinstance(source, IterableDataset)
    kind = type(source)
    if not (hasattr(kind, "__getitem__") and hasattr(kind, "__len__")):
        return False
    return not isinstance(source, Iterable) or _begins_with_image(source, seed)


def _begins_with_image(source: Any, seed: int) -> bool:
    """Return True if the first item is a single image that a loader can stack, alone or with other entries."""
    try:
        with RandomStream(seed, _CPU).drawn_from():
            item = source[0]
        images = dict_entries(item) if isinstance(item, Mapping) else item
        images = as_tensor(images[0] if isinstance(images, list | tuple) else images)
        single = isinstance(images, Tensor) and images.ndim == 3
        return single and default_collate([item]) is not None
    except Exception:  # its iterator may do without [], and its items may need no loader
        return False


def _sampled(images: Tensor, labels: Tensor | None, *, count: int, seed: int) -> CallerImages:
    split = TensorSplit(images, labels)
    kept = min(count, images_at_once((images.shape[2], images.shape[3])))
    order = torch.arange(len(images)) if kept >= len(images) else torch.randperm(len(images), generator=seeded(seed))
    drawn = order[:kept].to(images.device)
    return CallerImages(check_finite_images(images[drawn]), None if labels is None else labels[drawn], split)


def _first_images(source: Iterable[Any], count: int, seed: int, train: bool) -> TensorSplit:
    found: list[tuple[Tensor, Tensor | None]] = []
    missing = count
    for images, labels in labelled_batches(source, RandomStream(seed, _CPU), needs_labels=train):
        if not found:
            missing = min(count, images_at_once((images.shape[2], images.shape[3])))
        elif images.shape[1:] != found[0][0].shape[1:]:
            raise shapes_error(found[0][0], images)
        found.append((images[:missing], None if labels is None else labels[:missing]))
        missing -= len(found[-1][0])
        if not missing:
            break
    if not found:
        raise DataError(f"images: got a {type(source).__name__} without a batch; allowed: {ALLOWED}")
    labels_read = [labels for _, labels in found if labels is not None]
    labels = torch.cat(labels_read) if len(labels_read) == len(found) else None
    return TensorSplit(torch.cat([images for images, _ in found]), labels)


def _number_of_batches(source: Iterable[Any], seed: int) -> int:
    """Return the number of batches of one pass, by counting if the source does not know it.

    Raises:
        DataError: It does not know it, and a pass does not end within ``MOST_COUNTED``.
    """
    try:
        return len(cast(Sized, source))
    except Exception:  # for example of a loader of an IterableDataset
        counted = sum(1 for _ in islice(labelled_batches(source, RandomStream(seed, _CPU)), MOST_COUNTED + 1))
    if counted > MOST_COUNTED:
        raise DataError(
            f"images: got a {type(source).__name__} of unknown length that yields more than {MOST_COUNTED:,} batches; "
            "allowed: a source with len(), or one whose iteration ends, or epochs=0"
        )
    return counted
