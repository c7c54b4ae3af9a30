"""Augment whole batches by random crops and flips, with one generator and no Python loop over images."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

AREA: Final = (0.08, 1.0)
"""Smallest and largest area of a random box, as a part of the image (Szegedy et al., section 6)."""
RATIO: Final = (3 / 4, 4 / 3)
"""Smallest and largest aspect ratio of a random box, width / height (same source)."""


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        images: (N, H, W, C), any dtype.
        generator: Source of randomness.

    Returns:
        (N, H, W, C).
    """
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(2), images)


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Cut a random window of the image's size out of each image padded with black.

    Args:
        images: (N, H, W, C), any dtype.
        padding: Black pixels added on each side, which is the largest shift.
        generator: Source of randomness.

    Returns:
        (N, H, W, C).
    """
    count, height, width, channels = images.shape
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    rows = torch.randint(2 * padding + 1, (count,), generator=generator)[:, None] + torch.arange(height)
    columns = torch.randint(2 * padding + 1, (count,), generator=generator)
    # One run of width * channels values per row of the result: (N, H, shifts, width * channels), overlapping.
    runs = padded.flatten(2).unfold(2, width * channels, channels)
    picked = runs[torch.arange(count)[:, None], rows, columns[:, None]]
    return picked.view(count, height, width, channels)


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw boxes of 8 % to 100 % of the area and of aspect ratio 3/4 to 4/3.

    Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), section 6.

    Args:
        count: Number of images, N.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
        generator: Source of randomness.

    Returns:
        int64, (N, 4): top, left, height and width of each box in pixels, inside the image.
    """
    area = torch.empty(count).uniform_(*AREA, generator=generator) * (height * width)
    ratio = torch.empty(count).uniform_(math.log(RATIO[0]), math.log(RATIO[1]), generator=generator).exp()
    tall = (area / ratio).sqrt().round().long().clamp(1, height)
    wide = (area * ratio).sqrt().round().long().clamp(1, width)
    top = (torch.rand(count, generator=generator) * (height - tall + 1)).long()
    left = (torch.rand(count, generator=generator) * (width - wide + 1)).long()
    return torch.stack((top, left, tall, wide), dim=1)


def random_resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut a random box out of each image and resize it bilinearly to the image's size; see ``random_boxes``.

    Args:
        images: uint8, (N, H, W, C).
        generator: Source of randomness.

    Returns:
        uint8, (N, H, W, C).
    """
    count, height, width, _ = images.shape
    top, left, tall, wide = random_boxes(count, height, width, generator).to(torch.float32).unbind(1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = wide / width, (2 * left + wide) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = tall / height, (2 * top + tall) / height - 1
    grid = functional.affine_grid(theta, [count, images.shape[3], height, width], align_corners=False)
    values = images.permute(0, 3, 1, 2).to(torch.float32)
    cut = functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
