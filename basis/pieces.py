"""What a network gives at sampled positions, with a few of the images in memory at a time."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
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
    """Collect the rows of all images, piece by piece.

    Args:
        images: (N, 3, H, W), one or more.
        portion: Which images these are of a larger set.
        sampled: Gives the rows of a few of the images, (..., rows, n), image by image and of each image equally many.

    Returns:
        The rows of all images under each key that every piece has, in the order of the images.
    """
    found: dict[Key, Tensor] = {}
    for piece, part in _pieces(images, portion):
        first, rows = part.first - portion.first, sampled(piece, part)
        if first == 0:
            # At once as large as it becomes: many small tensors would leave holes in memory where they had been.
            found = {key: some.new_empty(_shape(some, len(piece), len(images))) for key, some in rows.items()}
        found = {key: whole for key, whole in found.items() if key in rows}
        for key, whole in found.items():
            per_image = whole.shape[-2] // len(images)
            whole[..., first * per_image : (first + len(piece)) * per_image, :] = rows[key]
    return found


def _pieces(images: Tensor, portion: Portion) -> Iterator[tuple[Tensor, Portion]]:
    step = max(1, PIXELS // images[0, 0].numel(), round(LEAST_SHARE * len(images)))
    for start in range(0, len(images), step):
        piece = images[start : start + step]
        yield piece, replace(portion, first=portion.first + start, count=len(piece))


def _shape(rows: Tensor, count: int, total: int) -> tuple[int, ...]:
    """The shape of all images' rows, from that of so many images' rows."""
    return *rows.shape[:-2], rows.shape[-2] // count * total, rows.shape[-1]
