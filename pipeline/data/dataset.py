"""Define data sets: two splits of labelled images that yield normalized batches."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from torch import Tensor

from pipeline.errors import OptionsError
from pipeline.runtime.share import WHOLE, RankSlice

IMAGENET_CLASSES: Final = 1000
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
LUMA: Final = (19595, 38470, 7471)
"""Weights of red, green and blue in a gray value, times 2^16 (ITU-R BT.601), as in Pillow's ``convert("L")``."""
PIXELS_AT_ONCE: Final = 256 * 224 * 224
"""Pixels of one measured batch: with 256 images of 224 x 224, ResNet-18 needs less than 4 GB."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel of the network's input, for values in 0..1; ImageNet's by default."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def channels(self) -> int:
        """Number of channels, C, of the network's input."""
        return len(self.mean)

    def apply(self, images: Tensor, device: torch.device) -> Tensor:
        """Convert stored images to a network's input.

        Args:
            images: uint8, (N, H, W, S). S is C, or 1 (repeated), or 3 for a C of 1 (converted to gray).
            device: Device of the result. The images are moved as bytes, a quarter of the size of floats.

        Returns:
            float32, (N, C, H, W), channels_last.
        """
        stored = _with_channels(images.to(device), self.channels)
        values = stored.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return values.sub_(mean * 255).div_(std * 255)


def default_normalization(
    channels: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Normalization:
    """Return a normalization for a number of channels; if the values are not as many, every channel gets their mean."""
    if len(mean) == len(std) == channels:
        return Normalization(mean, std)
    return Normalization((sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels)


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """Repeat gray images, or convert RGB images to gray: (N, H, W, S) -> (N, H, W, channels)."""
    stored = images.shape[3]
    if stored == 3 and channels == 1:
        weights = torch.tensor(LUMA, dtype=torch.int32, device=images.device)
        return ((images.to(torch.int32) * weights).sum(3, keepdim=True, dtype=torch.int32) + 2**15 >> 16).to(
            torch.uint8
        )
    return images if stored == channels else images.expand(-1, -1, -1, channels)


class Images(Protocol):
    """Labelled images that can be iterated in batches."""

    def __len__(self) -> int:
        """Return the number of images."""

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
        """Iterate once over the images.

        Args:
            batch_size: Images per batch; the last batch may be smaller.
            device: Device of the batches.
            seed: Seed of the shuffle and of augmentation; None keeps the order of the split.
            augment: True for random crops, and flips where the data allows them. After two or more full batches, a
                smaller last one is then dropped. After one full batch, only a single image is.
            start: Index of the first batch to yield. The batches from there on are the same as with 0.
            share: Part of every batch to yield. Its images are the same as in the whole batch.

        Returns:
            Pairs of normalized images, float32 (N, C, H, W) in channels_last, and labels, int64 (N,).

        Raises:
            OptionsError: The batch size is below 1, or ``augment`` comes without a seed.
        """


class TrainingImages(Images, Protocol):
    """Images that a network can be trained on."""

    @property
    def digest(self) -> str:
        """SHA-256 in hex of all that determines the batches; see the implementations."""

    def part(self, start: int, stop: int) -> Images:
        """Return the images from index ``start`` up to, but without, index ``stop``; there may be none."""

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw ``count`` images (or all) without labels or augmentation.

        Args:
            count: Number of images of all shares together.
            seed: Seed of the draw.
            device: Device of the result.
            share: Part of the drawn images to return; the others are not read.

        Returns:
            float32, (N, C, H, W), normalized.
        """


class Split(TrainingImages, Protocol):
    """Labelled images of the training or the test half of a data set, in an order that mixes the classes."""

    @property
    def flip(self) -> bool:
        """True if augmentation mirrors images left to right; False for digits and letters."""

    def head(self, count: int) -> "Split":
        """Return the first ``count`` images, or all if there are fewer."""

    def part(self, start: int, stop: int) -> "Split":
        """Return the images from index ``start`` up to, but without, index ``stop``; there may be none."""

    def unmirrored(self) -> "Split":
        """Return the same images, which augmentation does not mirror."""

    def normalized(self, normalization: Normalization) -> "Split":
        """Return the same images for a network with another normalization."""


@dataclass(frozen=True)
class Dataset:
    """A data set of images in classes.

    Attributes:
        name: Short name for reports.
        classes: Number of classes, 2 or more; 1 or more if only test images were loaded.
        class_names: One name per class.
        image_size: Height and width in pixels of the images in batches.
        train: Images for fitting, training and every choice; none if only test images were loaded.
        test: Images for reporting.
        normalization: Conversion from bytes to the network's input.
        channels: Number of channels of the stored images.
        notes: Sentences for the user about choices that the loader made.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    train: Split
    test: Split
    normalization: Normalization
    channels: int = 3
    notes: tuple[str, ...] = ()

    def normalized(self, normalization: Normalization, *notes: str) -> "Dataset":
        """Return the same images for a network with another normalization, and with more notes."""
        return replace(
            self,
            train=self.train.normalized(normalization),
            test=self.test.normalized(normalization),
            normalization=normalization,
            notes=(*self.notes, *notes),
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an image as the network takes it: (C, H, W)."""
        return (self.normalization.channels, *self.image_size)


def is_imagenet(dataset: Dataset) -> bool:
    """Return True if the classes are ImageNet's 1,000, named by WordNet ids such as ``n01440764``."""
    return dataset.classes == IMAGENET_CLASSES and all(re.fullmatch(r"n\d{8}", name) for name in dataset.class_names)


def batch_indices(count: int, batch_size: int, generator: torch.Generator | None, *, augment: bool) -> Iterator[Tensor]:
    """Split the indices of ``count`` images into batches; see ``Split.batches``.

    Args:
        count: Number of images.
        batch_size: Images per batch.
        generator: Source of the shuffle; None keeps the order.
        augment: True drops a smaller last batch; see ``batches_of_epoch``.

    Returns:
        int64 indices, one tensor per batch.

    Raises:
        OptionsError: The batch size is below 1, or ``augment`` comes without a generator.
    """
    if batch_size < 1:
        raise OptionsError(f"a batch needs 1 image or more, got a batch size of {batch_size}")
    if augment and generator is None:
        raise OptionsError("augmented batches need a seed, got None")
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    kept = batches_of_epoch(count, batch_size) * batch_size if augment else count
    return iter(order[:kept].split(batch_size))


def batches_of_epoch(count: int, batch_size: int) -> int:
    """Return the number of augmented batches of an epoch.

    A smaller last batch is dropped if there are two or more full ones. A single last image is dropped after one full
    batch too: batch normalization cannot be trained on one value per channel.
    """
    full, rest = divmod(count, batch_size)
    return full if full > 1 or (full == 1 and rest == 1) else full + (rest > 0)


def seeded(seed: int) -> torch.Generator:
    """Create a generator on the CPU, so that every device gets the same images."""
    return torch.Generator().manual_seed(seed)


def mixed_order(count: int) -> Tensor:
    """Return a fixed permutation of ``count`` images, so that the first N are a random sample of data sorted by class.

    Returns:
        int64, (count,).
    """
    return torch.randperm(count, generator=seeded(0))


def check_limit(count: int) -> int:
    """Return ``count``, a number of images to keep.

    Raises:
        OptionsError: The limit is below 1.
    """
    if count < 1:
        raise OptionsError(f"a limit on the number of images must be 1 or more, got {count}")
    return count


def images_at_once(size: tuple[int, int]) -> int:
    """Return the batch size, 1 or more, for measuring images of a height and width in pixels."""
    return max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
