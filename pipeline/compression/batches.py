"""Read the batches of a caller's source: images, and labels where they are known."""

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from basis.errors import CompressionError
from pipeline.compression.checks import check_dense
from pipeline.errors import DataError, described
from pipeline.runtime.randomness import RandomStream

logger = logging.getLogger(__name__)

ALLOWED: Final = (
    "normalized images as a float tensor (N, C, H, W), a DataLoader, a data set with len() and [], or an iterable of "
    "such tensors, of pairs (images, labels) or of dicts with both"
)
_LABEL_NAMES: Final = ("label", "labels", "target", "targets", "y", "class")


def labelled_batches(
    source: Iterable[Any], stream: RandomStream | None = None, *, needs_labels: bool = False
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Iterate once over a source of batches.

    Args:
        source: Yields tensors (N, C, H, W), pairs of a tensor and labels, dicts that hold both, or tuples that begin
            with images; see ``_labels``. A single image, (C, H, W), is a batch of one. Labels are integers,
            (N,) or (N, 1); others are left out. NumPy arrays count as tensors.
        stream: Random numbers for the source's order and augmentation; None takes torch's global generators.
        needs_labels: True to warn of a first batch whose labels are left out, or whose entries are.

    Returns:
        Pairs of images, float32 (N, C, H, W), and labels, int64 (N,), or None.

    Raises:
        DataError: A batch is of another kind, or the source raises an error.
    """
    for item in _items(source, stream):
        item = dict_entries(item) if isinstance(item, Mapping) else item
        images, *others = item if isinstance(item, list | tuple) and item else [item]
        images = as_tensor(images)
        if not isinstance(images, Tensor):
            raise DataError(
                f"images: got a batch of type {type(images).__name__}; allowed: tensors (N, C, H, W), pairs of such a "
                "tensor and labels, or dicts with both"
            )
        images = check_dense("images", images)
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4 or not images.is_floating_point() or not images.numel():
            raise DataError(
                f"images: got a batch of {images.dtype} of the shape {tuple(images.shape)}; allowed: normalized "
                "floats, (N, C, H, W)"
            )
        found = _labels(others, len(images), warn=needs_labels)
        needs_labels = False
        yield images.detach().float(), found


def as_tensor(value: Any) -> Any:
    """Return a NumPy array as a tensor with memory of its own, and any other value unchanged.

    Raises:
        DataError: Some of its values are masked.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise DataError("images: got a masked array; allowed: arrays of which every value counts, as of filled()")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "buif":
        return value
    native = value.astype(value.dtype.newbyteorder("=") if value.dtype.itemsize <= 8 else np.float64, copy=False)
    return torch.tensor(np.ascontiguousarray(native))  # torch takes no negative strides


def as_labels(value: Any) -> Any:
    """Return an integer or a list of integers as a tensor, and any other value as ``as_tensor`` does."""
    values = value if isinstance(value, list | tuple) else [value]
    whole = bool(values) and all(isinstance(each, Integral) and not isinstance(each, bool) for each in values)
    return torch.tensor([int(each) for each in values]) if whole else as_tensor(value)


def dict_entries(batch: Mapping[str, Any]) -> tuple[Any, ...]:
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
        reason = described(error)
        raise DataError(f"images: got a source that cannot be read ({reason}); allowed: {ALLOWED}") from error


_END = object()


def _labels(others: Sequence[object], count: int, *, warn: bool) -> Tensor | None:
    """Return the labels among the entries beside ``count`` images; None if there are none.

    Of (images, labels, index) and longer tuples, the first entry beside the images holds the labels if it may, as in
    pairs. Else the only entry that may does.

    Args:
        others: The entries.
        count: Number of images.
        warn: True to warn of entries that are left out, if they may be labels.

    Raises:
        DataError: The only entry has integers, (M,), of another number.
    """
    values = [as_labels(other) for other in others]
    whole = [value for value in values if isinstance(value, Tensor) and not torch.is_floating_point(value)]
    if len(values) == 1 and whole and whole[0].ndim == 1 and len(whole[0]) != count:
        raise DataError(f"images: got {len(whole[0])} labels for {count} images; allowed: one label for each image")
    fitting = [value for value in whole if _are_classes(value, count)]
    if not fitting or (len(fitting) > 1 and fitting[0] is not values[0]):
        if warn and others:
            logger.warning(
                "images: what stands beside the images is left out, and the training has no labels; labels are "
                "integers, (N,), in pairs (images, labels), or in dicts under one name such as 'label'"
            )
        return None
    if warn and len(fitting) > 1:
        logger.warning(
            "images: several entries of a batch may be labels, and the second entry is used; give pairs (images, "
            "labels) to use others"
        )
    return check_dense("labels", fitting[0]).detach().long().reshape(count)


def _are_classes(values: Tensor, count: int) -> bool:
    fits = values.numel() == count and values.shape in ((count,), (count, 1), ())
    return fits and values.dtype != torch.bool and not values.is_complex()
