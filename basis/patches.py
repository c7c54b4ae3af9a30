"""What a convolution sees: the values under its kernel at sampled positions, filtered by the basis functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from basis.portion import Portion

# About so many positions are sampled from a layer's feature maps, in batches of about so many values under the kernel.
POSITIONS = 2**16
BATCH_VALUES = 2**24
# A Gram matrix of more features than this takes gigabytes: such a layer is treated without one.
MOST_FEATURES = 8192


@dataclass(frozen=True)
class Sample:
    """A batch of sampled positions: the images, and in each of them the flat indices of the same output positions."""

    images: slice
    positions: Tensor

    @property
    def rows(self) -> int:
        """How many positions these are in all its images."""
        count: int = self.images.stop - self.images.start
        return count * len(self.positions)

    def of(self, outputs: Tensor, groups: int) -> Tensor:
        """The outputs at these positions.

        Args:
            outputs: A convolution's outputs, (N, out_channels, H, W).
            groups: The convolution's groups.

        Returns:
            (groups, rows, out_channels / groups), rows image by image.
        """
        chosen = _pixels(outputs[self.images]).index_select(1, self.positions.to(outputs.device))
        return _grouped(chosen.flatten(0, 1).unsqueeze(-1), groups)


def samples(conv: nn.Conv2d, x: Tensor, *, seed: int = 0, portion: Portion | None = None) -> list[Sample]:
    """Choose positions of a convolution's output, in each batch of images other ones, in every image equally many.

    Where there are at most ``POSITIONS`` positions in all, every one is taken. The choice depends on the sizes and the
    seed alone, so two convolutions of the same arguments get the same. In an image of a portion, the positions are
    those that are chosen in it when one process has all images.

    Args:
        conv: The convolution.
        x: Its inputs, (N, in_channels, H, W).
        seed: Chooses the positions.
        portion: Which images these are of a larger set; None takes them for the whole of it.
    """
    generator = torch.Generator().manual_seed(seed)
    first, total = (portion or Portion.whole(len(x))).rows(len(x))
    height, width = _output_size(conv, x.shape[-2:])
    per_image = min(height * width, -(-POSITIONS // total))
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    step = max(1, BATCH_VALUES // (per_image * conv.in_channels * taps))
    if per_image < height * width:
        step = min(step, -(-total // 32))  # other positions in at least 32 batches
    found = []
    for start in range(0, first + len(x), step):
        positions = torch.randperm(height * width, generator=generator)[:per_image].sort().values
        images = slice(max(0, start - first), min(len(x), start + step - first))
        if images.stop > images.start:
            found.append(Sample(images, positions))
    return found


def by_sample(rows: Tensor, chosen: list[Sample]) -> tuple[Tensor, ...]:
    """Split the rows of all samples, (groups, rows, n), into those of each."""
    split: tuple[Tensor, ...] = rows.split([sample.rows for sample in chosen], dim=1)
    return split


def patch_batches(conv: nn.Conv2d, x: Tensor, chosen: list[Sample], operator: Tensor | None = None) -> Iterator[Tensor]:
    """Gather a convolution's input patches at sampled positions; one batch of them is in memory at a time.

    Padding, padding mode, stride and dilation are the convolution's.

    Args:
        conv: The convolution.
        x: Inputs, float32, (N, in_channels, H, W).
        chosen: From ``samples``.
        operator: The matrix (kh kw, n) from a slice's coefficients to its kernel; None where the kernel is stored.

    Yields:
        For each sample (groups, rows, F), with F = in_channels / groups * (n or kh kw) in the order of the flattened
        stored values: the product of a row with them is the output without its bias.
    """
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    for sample in chosen:
        padded = functional.pad(x[sample.images], conv._reversed_padding_repeated_twice, mode=mode)
        index = _tap_index(conv, padded.shape[-1], sample.positions, _output_size(conv, x.shape[-2:])[1])
        # Pixel by pixel, all channels of one at once: several times faster than value by value.
        pixels = _pixels(padded).index_select(1, index.flatten().to(x.device))
        patches = pixels.view(-1, index.shape[1], conv.in_channels)
        if operator is not None:  # written as a product of batches: else it is one of long and thin matrices, and slow
            patches = operator.T.to(patches).expand(len(patches), -1, -1).bmm(patches)
        yield _grouped(patches.mT, conv.groups)


def _output_size(conv: nn.Conv2d, size: torch.Size) -> tuple[int, int]:
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    padded = (size[0] + top + bottom, size[1] + left + right)
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    height, width = ((p - r) // s + 1 for p, r, s in zip(padded, reach, conv.stride, strict=True))
    return height, width


def _tap_index(conv: nn.Conv2d, padded_width: int, positions: Tensor, output_width: int) -> Tensor:
    """Flat indices into a padded map: (positions, kh kw)."""
    stride, dilation = (cast(tuple[int, int], pair) for pair in (conv.stride, conv.dilation))
    corners = positions // output_width * stride[0] * padded_width + positions % output_width * stride[1]
    rows, columns = (torch.arange(k) * d for k, d in zip(conv.kernel_size, dilation, strict=True))
    return corners[:, None] + (rows[:, None] * padded_width + columns).flatten()


def _pixels(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C); in channels last this copies nothing."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _grouped(values: Tensor, groups: int) -> Tensor:
    """(rows, C, n) -> (groups, rows, C / groups * n)."""
    split: Tensor = values.unflatten(1, (groups, -1)).transpose(0, 1)
    return split.reshape(groups, len(values), -1)
