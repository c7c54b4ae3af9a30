"""What the squared error of a convolution's outputs follows from, for any coefficients: sums over its positions."""

from collections.abc import Iterable

import torch
from torch import Tensor

from basis.conv import SeriesConv2d
from basis.patches import by_sample, patch_batches, samples
from basis.portion import Portion


class Moments:
    """Sums over one layer's sampled positions in all images.

    Args:
        conv: The layer.
        x: Its inputs, (N, in_channels, H, W).
        targets: The original outputs Y at the sampled positions, (groups, rows, O / groups).
        seed: Chooses the positions.
        portion: Which images these are of all.

    Attributes:
        chosen: The samples.
        gram: Z^T Z of the basis-filtered patches Z, (groups, F, F); the last feature is the bias' constant 1.
        cross: Z^T Y with the original outputs Y, (groups, F, O / groups).
        square: The sum of Y^2.
    """

    def __init__(self, conv: SeriesConv2d, x: Tensor, targets: Tensor, seed: int, portion: Portion) -> None:
        features = conv.coefficients[0].numel() + 1
        self._conv, self._x, self._portion = conv, x, portion
        self.chosen = samples(conv, x, seed=seed, portion=portion)
        self.gram = torch.zeros(conv.groups, features, features, dtype=torch.float64, device=x.device)
        outputs = by_sample(targets, self.chosen)
        self.cross = self._products(outputs, self.gram)
        square = sum(float(target.double().square().sum()) for target in outputs)
        self.gram, self.cross = portion.reduce(self.gram), portion.reduce(self.cross)
        self.square = float(portion.reduce(torch.tensor(square, dtype=torch.float64)))

    def products(self, targets: Iterable[Tensor]) -> Tensor:
        """Z^T T with any targets T, (groups, rows, O / groups) for each sample."""
        return self._portion.reduce(self._products(targets))

    def relative_error(self, columns: Tensor) -> float:
        """||Y - Z a|| / ||Y|| for coefficients and bias a, (groups, F, O / groups); 0 where Y is 0."""
        squared = self.square + float(self._squares(columns).sum())
        return float((max(squared, 0.0) / self.square) ** 0.5) if self.square > 0 else 0.0

    def shares_within(self, start: Tensor, columns: Tensor, step: Tensor) -> Tensor:
        """The greatest share of a step, 0 to 1, that makes no output channel worse than it was with the first columns.

        Args:
            start: The first coefficients and biases, (groups, F, O / groups).
            columns: Those that the step begins at, nowhere worse than the first.
            step: What is to be added to them.

        Returns:
            A share t of each channel, (groups, 1, O / groups).
        """
        turned = self.gram @ step  # at a share t, the squared error has grown by 2 s t + c t^2
        slope = (turned * columns - self.cross * step).sum(1, keepdim=True)
        curve = (turned * step).sum(1, keepdim=True).clamp_min(torch.finfo(turned.dtype).tiny)
        spare = (self._squares(start) - self._squares(columns)).clamp_min(0)
        most = ((slope**2 + curve * spare).sqrt() - slope) / curve
        return torch.where(curve + 2 * slope > spare, most, 1.0)

    def _squares(self, columns: Tensor) -> Tensor:
        """||Y - Z a||^2 - ||Y||^2 of each output channel, (groups, 1, O / groups)."""
        squares: Tensor = (columns * (self.gram @ columns - 2 * self.cross)).sum(1, keepdim=True)
        return squares

    def _products(self, targets: Iterable[Tensor], gram: Tensor | None = None) -> Tensor:
        """Z^T T of these images; adds Z^T Z to the Gram matrix."""
        groups, outputs, features = self._conv.groups, self._conv.out_channels, self._conv.coefficients[0].numel() + 1
        cross = torch.zeros(groups, features, outputs // groups, dtype=torch.float64, device=self._x.device)
        batches = patch_batches(self._conv, self._x.float(), self.chosen, self._conv.operator)
        # Products of a batch in float32, which is what the layer itself computes in; their sums in float64.
        for rows, target in zip(batches, targets, strict=True):
            cross += torch.cat([rows.mT @ target, target.sum(1, keepdim=True)], dim=1)
            if gram is not None:  # without a copy of the rows that has the ones
                gram[:, :-1, :-1] += rows.mT @ rows
                gram[:, -1, :-1] += rows.sum(1)
                gram[:, -1, -1] += rows.shape[1]
        if gram is not None:
            gram[:, :-1, -1] = gram[:, -1, :-1]
        return cross
