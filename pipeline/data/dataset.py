"""What a data set is: two splits that give normalized batches, and the facts that a report needs."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from pipeline.errors import OptionsError
from pipeline.runtime.share import WHOLE, RankSlice

IMAGENET_CLASSES: Final = 1000
# 256 images of 224 x 224: with these one batch through ResNet-18 stays below 4 GB.
PIXELS_AT_ONCE: Final = 256 * 224 * 224


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel, for values in 0..1; ImageNet's, which we use for all data sets."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def apply(self, images: Tensor, device: torch.device) -> Tensor:
        """Turn stored images into a network's input.

        Args:
            images: uint8, (N, H, W, 3).
            device: Where the result lives; the bytes are moved, not the floats.

        Returns:
            float32, (N, 3, H, W), channels_last.
        """
        values = images.to(device).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, 3, 1, 1)
        return values.sub_(mean * 255).div_(std * 255)


class Images(Protocol):
    """Labelled images that come in batches."""

    def __len__(self) -> int:
        """The number of images."""

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
        """Go once over the images.

        Args:
            batch_size: Images per batch; the last batch may be smaller.
            device: Where the batches live.
            seed: None keeps the stored order; a number shuffles, and the same number gives the same batches.
            augment: Random crops, and flips where the data allows them. A smaller last batch is then dropped if
                there are two or more full ones.
            start: Number of the first batch, from 0; those before it are left out, and the others are the same.
            share: Which part of every batch is given; its images are those that they are in the whole batch.

        Returns:
            Pairs of normalized images, float32 (N, 3, H, W) in channels_last, and labels, int64 (N,).

        Raises:
            OptionsError: If the batch size is below 1, or if `augment` comes without a seed.
        """


class Split(Images, Protocol):
    """Labelled images of one half of a data set: training or test."""

    @property
    def digest(self) -> str:
        """SHA-256 in hex of all that the batches follow from; see the implementations."""

    def head(self, count: int) -> "Split":
        """The first `count` images, or all if there are fewer."""

    def part(self, start: int, stop: int) -> "Split":
        """The images from number `start` to before number `stop`; there may be none."""

    def normalized(self, normalization: Normalization) -> "Split":
        """The same images for a network of another normalization."""

    def sample(self, count: int, *, seed: int, device: torch.device, share: RankSlice = WHOLE) -> Tensor:
        """Draw `count` images (or all) without labels or augmentation, and give a share of them.

        Args:
            count: Images of all shares together.
            seed: Decides which they are, and their order.
            device: Where the result lives.
            share: Which of them are given; the others are not read.

        Returns:
            float32, (N, 3, H, W), normalized.
        """


@dataclass(frozen=True)
class Dataset:
    """A data set of RGB images in classes.

    Attributes:
        name: Short name for reports.
        classes: Number of classes, 2 or more.
        class_names: One name per class.
        image_size: Height and width in pixels of the images in batches.
        train: Images for fitting, training and every choice.
        test: Images for reporting.
        normalization: How bytes become the network's input.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    train: Split
    test: Split
    normalization: Normalization

    @property
    def digest(self) -> str:
        """SHA-256 in hex of both halves and the class names."""
        return hashlib.sha256(repr((self.class_names, self.train.digest, self.test.digest)).encode()).hexdigest()


def is_imagenet(dataset: Dataset) -> bool:
    """Whether the classes are ImageNet's 1,000, named by WordNet ids such as `n01440764`."""
    return dataset.classes == IMAGENET_CLASSES and all(re.fullmatch(r"n\d{8}", name) for name in dataset.class_names)


def batch_indices(count: int, batch_size: int, generator: torch.Generator | None, *, augment: bool) -> Iterator[Tensor]:
    """Cut `count` images into batches; see `Split.batches`.

    Returns:
        int64 indices, one tensor per batch.

    Raises:
        OptionsError: If the batch size is below 1, or if `augment` comes without a generator.
    """
    if batch_size < 1:
        raise OptionsError(f"a batch needs 1 image or more, got a batch size of {batch_size}")
    if augment and generator is None:
        raise OptionsError("augmented batches need a seed, got None")
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    kept = batches_of_epoch(count, batch_size) * batch_size if augment else count
    return iter(order[:kept].split(batch_size))


def batches_of_epoch(count: int, batch_size: int) -> int:
    """How many augmented batches `count` images give: a last partial one is dropped if two or more full ones stay."""
    full, rest = divmod(count, batch_size)
    return full if full > 1 else full + (rest > 0)


def seeded(seed: int) -> torch.Generator:
    """Create a generator on the CPU, so that every device gets the same images."""
    return torch.Generator().manual_seed(seed)


def mixed_order(count: int) -> Tensor:
    """Return a fixed permutation of `count` images, so that the first N are a random sample of data sorted by class.

    Returns:
        int64, (count,).
    """
    return torch.randperm(count, generator=seeded(0))


def check_limit(count: int) -> int:
    """Return `count`, a number of images to keep.

    Raises:
        OptionsError: If it is below 1.
    """
    if count < 1:
        raise OptionsError(f"a limit on the number of images must be 1 or more, got {count}")
    return count


def images_at_once(size: tuple[int, int]) -> int:
    """How many images of a height and width go through a network as one batch to be measured, 1 or more."""
    return max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
