"""What a network gives at sampled positions, with a few of the images in memory at a time."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

from basis.portion import Portion

# A piece has about so many pixels, so that the feature maps of small networks stay in the processor's cache, but at
# least this share of the images: every piece draws the positions of all before it.
PIXELS = 2**17
LEAST_SHARE = 1 / 16
# Rows are the same up to this share of the largest value; kernels may sum in another order for another batch size.
TOLERANCE = 1e-3

Key = TypeVar("Key", bound=Hashable)


def in_pieces(
    images: Tensor, portion: Portion, sampled: Callable[[Tensor, Portion], dict[Key, Tensor]]
) -> dict[Key, Tensor]:
    """Collect the rows of all images, piece by piece, where rows are of one image each and in the images' order.

    Where they are not, as when a network puts images together or normalizes by the batch's statistics, all images go at
    once. Two images alone show it: they must give the rows that the first piece begins with. So do pieces of other keys
    or shapes.

    Args:
        images: (N, 3, H, W), one or more.
        portion: Which images these are of a larger set.
        sampled: Gives the rows of images, (..., rows, n).

    Returns:
        What ``sampled`` gives for all images.
    """
    pieces = _pieces(images, portion)
    if len(pieces) == 1:
        return sampled(images, portion)
    two = sampled(images[:2], replace(portion, count=2))
    found: dict[Key, Tensor] = {}
    for piece, part in pieces:
        rows, start = sampled(piece, part), part.first - portion.first
        alike = _outlines(rows, len(piece)) == _outlines(two, 2) and (start > 0 or _begin(rows, two))
        if not alike or any(some.shape[-2] % len(piece) for some in rows.values()):
            return sampled(images, portion)
        for key, some in rows.items():
            per_image = some.shape[-2] // len(piece)
            if start == 0:  # at once as large as it becomes: many small tensors would leave holes in memory
                found[key] = some.new_empty(*some.shape[:-2], per_image * len(images), some.shape[-1])
            found[key][..., start * per_image : (start + len(piece)) * per_image, :] = some
    return found


def _pieces(images: Tensor, portion: Portion) -> list[tuple[Tensor, Portion]]:
    """Pieces of two or more images, evenly many of them but for the last one."""
    step = 2 * max(1, PIXELS // images[0, 0].numel() // 2, round(LEAST_SHARE * len(images) / 2))
    while step < len(images) and len(images) % step == 1:
        step += 2
    parts = [(start, images[start : start + step]) for start in range(0, len(images), step)]
    return [(piece, replace(portion, first=portion.first + start, count=len(piece))) for start, piece in parts]


def _outlines(rows: Mapping[Key, Tensor], images: int) -> dict[Key, tuple[object, ...]]:
    """The shapes of so many images' rows, with the rows of one."""
    return {key: (some.shape[:-2], Fraction(some.shape[-2], images), some.shape[-1]) for key, some in rows.items()}


def _begin(rows: Mapping[Key, Tensor], first: Mapping[Key, Tensor]) -> bool:
    """Whether the rows begin with these, under every key."""
    for key, few in first.items():
        within = TOLERANCE * float(few.abs().amax()) if few.numel() else 0.0
        if not torch.allclose(rows[key][..., : few.shape[-2], :], few, rtol=0.0, atol=within, equal_nan=True):
            return False
    return True
