"""Choose the common size of images, and bring images to a size.

An image is resized, with its aspect ratio kept, until it covers the size. The centre is then cut out. This is
torchvision's preset for classification. Large images are first resized to 256 / 224 of the size, like ImageNet's.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median_low
from typing import Final

from PIL import Image
from torch import Tensor
from torch.nn import functional

MARGIN: Final = 256 / 224
"""Size before the centre crop as a multiple of the size after it, as in torchvision's ImageNet evaluation."""

_MOST_PIXELS: Final = 64
"""Pixels of a resized image before the crop, as a multiple of those after it."""

Size = tuple[int, int]


def common_size(sizes: Sequence[Size]) -> Size:
    """Return the size that at least half of the images have; without one, the median height and the median width.

    Args:
        sizes: Height and width of each image, in pixels; at least one.
    """
    size, count = Counter(sizes).most_common(1)[0]
    if 2 * count >= len(sizes):
        return size
    return median_low([height for height, _ in sizes]), median_low([width for _, width in sizes])


def fitted(image: Image.Image, size: Size, margin: float = 1.0) -> Image.Image:
    """Resize an image until it covers a size times ``margin``, and return the centre.

    Args:
        image: The image.
        size: Height and width of the result, in pixels.
        margin: Size before the crop as a multiple of ``size``.
    """
    height, width = size
    if margin == 1.0 and image.size == (width, height):
        return image
    wide, tall = _covering((image.height, image.width), (round(height * margin), round(width * margin)))
    if wide * tall > _MOST_PIXELS * width * height:  # a long strip: only its middle is resized
        across, down = max(2.0, image.width * 2 * width / wide), max(2.0, image.height * 2 * height / tall)
        left, top = (max(0, round((whole - part) / 2)) for whole, part in ((image.width, across), (image.height, down)))
        image = image.crop((left, top, image.width - left, image.height - top))
        wide, tall = _covering((image.height, image.width), (round(height * margin), round(width * margin)))
    resized = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - width) // 2, (tall - height) // 2
    return resized.crop((left, top, left + width, top + height))


def covered(images: Tensor, size: Size) -> Tensor:
    """Resize a batch until it covers a size, and return the centre; with antialiasing, like Pillow.

    Args:
        images: uint8, (N, H, W, C), on the CPU.
        size: Height and width of the result, in pixels.

    Returns:
        uint8, (N, *size, C).
    """
    height, width = size
    if images.shape[1:3] == size:
        return images
    wide, tall = _covering((images.shape[1], images.shape[2]), size)
    values = images.permute(0, 3, 1, 2).float()
    large = functional.interpolate(values, size=(tall, wide), mode="bilinear", align_corners=False, antialias=True)
    left, top = (wide - width) // 2, (tall - height) // 2
    centre = large[:, :, top : top + height, left : left + width]
    return centre.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _covering(size: Size, target: Size) -> tuple[int, int]:
    """Return the smallest width and height of the same aspect ratio that cover the target."""
    (height, width), (tall, wide) = size, target
    scale = max(tall / height, wide / width)
    return max(wide, round(width * scale)), max(tall, round(height * scale))
