"""Run a network on a few images at a time and collect the sampled rows of all images."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TypeVar

import torch
from torch import Tensor

from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard

# Rows are equal up to this share of the largest value: kernels may sum in another order for another batch size.
TOLERANCE = 1e-3

Key = TypeVar("Key", bound=Hashable)


def in_chunks(
    images: Tensor,
    shard: CalibrationShard,
    compute: Callable[[Tensor, CalibrationShard], dict[Key, Tensor]],
    sampling: SamplingConfig = DEFAULT_SAMPLING,
) -> dict[Key, Tensor]:
    """Collect the rows of all images, chunk by chunk.

    Falls back to one pass over all images if the network mixes images (for example batch statistics). This is detected
    by running the first two images alone: their rows must match the first rows of the first chunk. Chunks whose keys or
    shapes differ also trigger the fallback.

    Args:
        images: (N, C, H, W), one or more.
        shard: The shard of a larger set that the images are.
        compute: Returns the rows of images, (..., rows, n), in the order of the images.
        sampling: Sizes of the chunks.

    Returns:
        The rows that ``compute`` returns for all images at once.
    """
    chunks = _chunks(images, shard, sampling)
    if len(chunks) == 1:
        return compute(images, shard)
    first_two = compute(images[:2], replace(shard, count=2))
    collected: dict[Key, Tensor] = {}
    for chunk, part in chunks:
        rows, start = compute(chunk, part), part.first - shard.first
        independent = _shapes_per_image(rows, len(chunk)) == _shapes_per_image(first_two, 2)
        independent = independent and (start > 0 or _starts_with(rows, first_two))
        if not independent or any(some.shape[-2] % len(chunk) for some in rows.values()):
            return compute(images, shard)
        for key, some in rows.items():
            per_image = some.shape[-2] // len(chunk)
            if start == 0:  # allocated once in full size: many small tensors would fragment the memory
                collected[key] = some.new_empty(*some.shape[:-2], per_image * len(images), some.shape[-1])
            collected[key][..., start * per_image : (start + len(chunk)) * per_image, :] = some
    return collected


def _chunks(images: Tensor, shard: CalibrationShard, sampling: SamplingConfig) -> list[tuple[Tensor, CalibrationShard]]:
    """Split the images into chunks of two or more; all but the last have the same even size, four or more.

    With two, the first chunk would be equal to the two images alone, whatever the network does.
    """
    by_pixels = sampling.chunk_pixels // images[0, 0].numel() // 2
    step = 2 * max(2, by_pixels, round(sampling.min_chunk_share * len(images) / 2))
    while step < len(images) and len(images) % step == 1:
        step += 2
    parts = [(start, images[start : start + step]) for start in range(0, len(images), step)]
    return [(chunk, replace(shard, first=shard.first + start, count=len(chunk))) for start, chunk in parts]


def _shapes_per_image(rows: Mapping[Key, Tensor], images: int) -> dict[Key, tuple[object, ...]]:
    return {key: (some.shape[:-2], Fraction(some.shape[-2], images), some.shape[-1]) for key, some in rows.items()}


def _starts_with(rows: Mapping[Key, Tensor], first: Mapping[Key, Tensor]) -> bool:
    for key, few in first.items():
        finite = few[few.isfinite()]
        within = TOLERANCE * float(finite.abs().amax()) if finite.numel() else 0.0
        if not torch.allclose(rows[key][..., : few.shape[-2], :], few, rtol=0.0, atol=within, equal_nan=True):
            return False
    return True
