"""What a network gives at sampled positions, with a few of the images in memory at a time."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

from torch import Tensor

from basis.portion import Portion

# A piece has about so many pixels, so that the feature maps of small networks stay in the processor's cache, but at
# least this share of the images: every piece draws the positions of all.
PIXELS = 2**17
LEAST_SHARE = 1 / 16

Key = TypeVar("Key", bound=Hashable)


def in_pieces(
    images: Tensor, portion: Portion, sampled: Callable[[Tensor, Portion], dict[Key, Tensor]]
) -> dict[Key, Tensor]:
    """Collect the rows of all images, piece by piece; at once, where a piece has other keys or rows than the first.

    Args:
        images: (N, 3, H, W), one or more.
        portion: Which images these are of a larger set.
        sampled: Gives the rows of images, (..., rows, n), image by image.

    Returns:
        What ``sampled`` gives for all images.
    """
    found: dict[Key, Tensor] = {}
    outlines = []
    for piece, part in _pieces(images, portion):
        rows = sampled(piece, part)
        if len(piece) == len(images):
            return rows
        outlines.append({key: _outline(some, len(piece)) for key, some in rows.items()})
        if outlines[-1] != outlines[0]:
            return sampled(images, portion)
        start = part.first - portion.first
        for key, some in rows.items():
            per_image = some.shape[-2] // len(piece)
            if start == 0:  # at once as large as it becomes: many small tensors would leave holes in memory
                found[key] = some.new_empty(*some.shape[:-2], per_image * len(images), some.shape[-1])
            found[key][..., start * per_image : (start + len(piece)) * per_image, :] = some
    return found


def _pieces(images: Tensor, portion: Portion) -> Iterator[tuple[Tensor, Portion]]:
    step = max(1, PIXELS // images[0, 0].numel(), round(LEAST_SHARE * len(images)))
    while step < len(images) and len(images) % step == 0:
        step += 1  # the last piece is smaller: what does not grow with the images is found out
    for start in range(0, len(images), step):
        piece = images[start : start + step]
        yield piece, replace(portion, first=portion.first + start, count=len(piece))


def _outline(rows: Tensor, images: int) -> tuple[object, ...]:
    """The shape of so many images' rows, with the rows of one."""
    return rows.shape[:-2], Fraction(rows.shape[-2], images), rows.shape[-1]
