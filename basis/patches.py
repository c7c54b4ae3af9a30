"""Sample a convolution's input patches: the values under its kernel, filtered by the basis functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from basis import progress
from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard

# Features F of the largest Gram matrix: in float64, 8192^2 values take 0.5 GB. Layers with more features get none.
MAX_FEATURES = 8192


@dataclass(frozen=True)
class Sample:
    """A batch of sampled output positions, the same in each of its images.

    Attributes:
        images: The images of the batch.
        positions: Flat indices into an output map, int64, (positions,).
    """

    images: slice
    positions: Tensor

    @property
    def rows(self) -> int:
        """Number of sampled positions over all images of the batch."""
        count: int = self.images.stop - self.images.start
        return count * len(self.positions)

    def of(self, outputs: Tensor, groups: int) -> Tensor:
        """Select the outputs at the sampled positions.

        Args:
            outputs: A convolution's outputs, (N, out_channels, H, W).
            groups: The convolution's groups.

        Returns:
            (groups, rows, out_channels / groups), rows image by image.
        """
        chosen = _pixels(outputs[self.images]).index_select(1, self.positions.to(outputs.device))
        return _grouped(chosen.flatten(0, 1).unsqueeze(-1), groups)


def samples(
    conv: nn.Conv2d,
    x: Tensor,
    *,
    seed: int = 0,
    shard: CalibrationShard | None = None,
    sampling: SamplingConfig = DEFAULT_SAMPLING,
) -> list[Sample]:
    """Choose output positions of a convolution: equally many in each image, different ones in each batch of images.

    All positions are chosen if there are at most ``sampling.positions``. The choice depends only on the sizes and the
    seed, so two convolutions with the same arguments get the same positions. An image gets the same positions on one
    rank of several as on a single rank with all images.

    Args:
        conv: The convolution.
        x: Its inputs, (N, in_channels, H, W).
        seed: Seed of the positions.
        shard: Calibration shard of this rank; None if ``x`` is the whole set.
        sampling: Number of positions, and size of a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    first, total = (shard or CalibrationShard.whole(len(x))).rows(len(x))
    height, width = _output_size(conv, x.shape[-2:])
    per_image = min(height * width, -(-sampling.positions // total))
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    step = max(1, sampling.batch_values // (per_image * conv.in_channels * taps))
    if per_image < height * width:
        step = min(step, -(-total // 32))  # at least 32 batches, each with its own positions
    found = []
    for start in range(0, first + len(x), step):
        positions = torch.randperm(height * width, generator=generator)[:per_image].sort().values
        images = slice(max(0, start - first), min(len(x), start + step - first))
        if images.stop > images.start:
            found.append(Sample(images, positions))
    return found


def by_sample(rows: Tensor, chosen: list[Sample]) -> tuple[Tensor, ...]:
    """Split the rows of all samples, (groups, rows, n), into one tensor for each sample."""
    split: tuple[Tensor, ...] = rows.split([sample.rows for sample in chosen], dim=1)
    return split


def patch_batches(conv: nn.Conv2d, x: Tensor, chosen: list[Sample], operator: Tensor | None = None) -> Iterator[Tensor]:
    """Gather a convolution's input patches at sampled positions, one batch at a time.

    The padding, padding mode, stride and dilation are the convolution's.

    Args:
        conv: The convolution.
        x: Inputs, float32, (N, in_channels, H, W).
        chosen: From ``samples``.
        operator: The matrix (kh kw, n) from a slice's coefficients to its kernel; None if the kernel itself is stored.

    Yields:
        For each sample (groups, rows, F), with F = in_channels / groups * (n or kh kw), in the order of
        ``feature_order``. The product of a row and the stored values is the output without its bias.
    """
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    for sample in chosen:
        padded = functional.pad(x[sample.images], conv._reversed_padding_repeated_twice, mode=mode)
        index = _tap_index(conv, padded.shape[-1], sample.positions, _output_size(conv, x.shape[-2:])[1])
        # All channels of a pixel at once: several times faster than value by value.
        pixels = _pixels(padded).index_select(1, index.flatten().to(x.device))
        patches = pixels.view(-1, index.shape[1], conv.in_channels)
        if operator is not None:  # as a batched product: a single product of long, thin matrices would be slow
            patches = operator.T.to(patches).contiguous().expand(len(patches), -1, -1).bmm(patches)
        yield patches.flatten(1).unsqueeze(0) if conv.groups == 1 else _grouped(patches.mT, conv.groups)
        progress.step()


def feature_order(conv: nn.Conv2d, operator: Tensor | None = None) -> Tensor | None:
    """Return for each stored value of a filter the place of its feature in the rows of ``patch_batches``.

    Without groups, all channels of a tap or term are neighbours in a row, as they are gathered. Transposing the rows
    would take half as long as their products, so the sums of products are reordered instead.

    Args:
        conv: The convolution.
        operator: See ``patch_batches``.

    Returns:
        int64, (F,), or None if the features are in the order of the flattened stored values.
    """
    terms = conv.kernel_size[0] * conv.kernel_size[1] if operator is None else operator.shape[1]
    if conv.groups > 1 or terms == 1:
        return None
    order: Tensor = torch.arange(terms * conv.in_channels).unflatten(0, (terms, -1)).T.flatten()
    return order


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
    """(N, C, H, W) -> (N, H W, C), without a copy for channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _grouped(values: Tensor, groups: int) -> Tensor:
    """(rows, C, n) -> (groups, rows, C / groups * n), each group contiguous: products would copy it each time."""
    if groups == values.shape[1]:  # a transposed matrix is copied several times faster than a permuted tensor
        channels: Tensor = values.movedim(1, 2).flatten(0, 1).T.contiguous()
        return channels.view(groups, len(values), -1)
    split: Tensor = values.unflatten(1, (groups, -1)).transpose(0, 1)
    return split.reshape(groups, len(values), -1)
