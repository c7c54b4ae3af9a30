"""Gram statistics of one layer: ``Z^T Z``, ``Z^T Y`` and ``||Y||^2`` over its sampled positions.

The squared output error of any coefficients a follows from them, without the rows themselves:

    ||Y - Z a||^2 = ||Y||^2 - 2 tr(a^T Z^T Y) + tr(a^T Z^T Z a)

Z holds the basis-filtered input patches as rows, Y the wanted outputs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from basis.errors import NumericalError
from basis.shard import CalibrationShard

ENOUGH_ROWS: Final = 15
"""Rows for each feature that determine the coefficients of a layer well."""


@dataclass(frozen=True)
class GramStatistics:
    """Sums, or means, over the rows of one layer.

    Attributes:
        gram: ``Z^T Z``, float64, (groups, F, F).
        cross: ``Z^T Y``, float64, (groups, F, O / groups).
        square: ``||Y||^2``, float64, without axes.
        count: Number of rows of the sums or means, float64, without axes.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    count: Tensor

    @classmethod
    def accumulate(
        cls, batches: Iterable[Tensor], targets: Iterable[Tensor] | None = None, *, constant: bool = False
    ) -> "GramStatistics":
        """Sum over batches of rows: products in float32, as the layer itself computes, and their sums in float64.

        Args:
            batches: One or more batches of Z, (groups, rows, features), for example from ``patch_batches``.
            targets: The rows of Y for each batch, (groups, rows, O / groups); None for outputs of width 0.
            constant: Add a last feature that is always 1, for the bias; then F is features + 1.

        Returns:
            The sums over all rows.
        """
        gram = cross = square = count = torch.zeros((), dtype=torch.float64)
        pairs = ((rows, rows[..., :0]) for rows in batches) if targets is None else zip(batches, targets, strict=True)
        for number, (rows, target) in enumerate(pairs):
            if number == 0:
                features = rows.shape[2] + constant
                gram = rows.new_zeros(len(rows), features, features, dtype=torch.float64)
                cross = rows.new_zeros(len(rows), features, target.shape[2], dtype=torch.float64)
                square = rows.new_zeros((), dtype=torch.float64)
            _add_gram(gram, rows, constant=constant)
            cross += _cross(rows, target, constant=constant)
            square += target.double().square().sum()
            count = count + rows.shape[1]
        return cls(gram, cross, square.cpu(), count)

    def reordered(self, order: Tensor | None) -> "GramStatistics":
        """Return the sums with the features in another order.

        Args:
            order: For each place the feature that it gets, int64, (F,) or, with a constant, (F - 1,); see
                ``basis.patches.feature_order``. None keeps the order.
        """
        return replace(self, gram=reordered(self.gram, order, 1, 2), cross=reordered(self.cross, order, 1))

    def reduced(self, shard: CalibrationShard) -> "GramStatistics":
        """Return the sums over all processes that share the images."""
        return GramStatistics(*(shard.reduce(value) for value in (self.gram, self.cross, self.square, self.count)))

    def mean(self) -> "GramStatistics":
        """Return the means over the rows instead of the sums."""
        rows = float(self.count)
        return replace(self, gram=self.gram / rows, cross=self.cross / rows, square=self.square / rows)

    @property
    def scarcity(self) -> float:
        """How far the rows are too few to determine F coefficients: F / rows above ``1 / ENOUGH_ROWS``, or 0.

        It is the ridge or damping that such rows need besides, as a share of the mean diagonal. Coefficients that fit
        them closely would be worse for other images; see docs/method.md for figures.
        """
        return max(0.0, self.gram.shape[1] / float(self.count) - 1 / ENOUGH_ROWS)

    def steadied(self) -> Tensor:
        """Return ``Z^T Z`` with the ridge of the scarcity on all features but the last, the constant."""
        if not self.scarcity:
            return self.gram
        gram = self.gram.clone()
        diagonal = gram.diagonal(dim1=1, dim2=2)[:, :-1]
        diagonal += self.scarcity * diagonal.mean(1, keepdim=True)
        return gram

    def check_finite(self, layer: str) -> None:
        """Check the sums of a layer.

        Raises:
            NumericalError: They are not finite, because inputs or outputs of the layer are not.
        """
        if not all(bool(torch.isfinite(sums).all()) for sums in (self.gram, self.cross, self.square)):
            raise NumericalError(
                f"fit: inputs or outputs of the layer {layer!r} are not finite; allowed: a network whose values are "
                "finite for all calibration images"
            )

    def relative_error(self, columns: Tensor) -> float:
        """Return ``||Y - Z a|| / ||Y||`` for coefficients a, (groups, F, O / groups); 0 if Y is 0."""
        total = float(self.square)
        squared = total + float(self._squared_error_change(columns).sum())
        return float((max(squared, 0.0) / total) ** 0.5) if total > 0 else 0.0

    def largest_step_share(self, start: Tensor, columns: Tensor, step: Tensor) -> Tensor:
        """Return the largest share of a step for which no output channel has a larger error than at the start.

        At a share t of the step D, the squared error of a channel has grown by ``2 s t + c t^2`` since ``columns``. The
        slope is ``s = (Z^T Z a - Z^T Y)^T D``, and the curvature is ``c = D^T Z^T Z D``.

        Args:
            start: The coefficients that bound the error, (groups, F, O / groups).
            columns: The coefficients a before the step; in no channel worse than ``start``.
            step: D, the same shape.

        Returns:
            A share from 0 to 1 for each channel, float64, (groups, 1, O / groups).
        """
        moved = self.gram @ step
        slope = (moved * columns - self.cross * step).sum(1, keepdim=True)
        curvature = (moved * step).sum(1, keepdim=True).clamp_min(torch.finfo(moved.dtype).tiny)
        allowed = (self._squared_error_change(start) - self._squared_error_change(columns)).clamp_min(0)
        largest = ((slope**2 + curvature * allowed).sqrt() - slope) / curvature
        return torch.where(curvature + 2 * slope > allowed, largest, 1.0)

    def _squared_error_change(self, columns: Tensor) -> Tensor:
        """``||Y - Z a||^2 - ||Y||^2`` of each output channel: (groups, 1, O / groups)."""
        change: Tensor = (columns * (self.gram @ columns - 2 * self.cross)).sum(1, keepdim=True)
        return change


def cross_products(batches: Iterable[Tensor], targets: Iterable[Tensor], *, constant: bool = False) -> Tensor:
    """Return ``Z^T T`` for targets T other than the outputs; arguments as in ``GramStatistics.accumulate``.

    Returns:
        float64, (groups, F, O / groups).
    """
    cross = torch.zeros((), dtype=torch.float64)
    for number, (rows, target) in enumerate(zip(batches, targets, strict=True)):
        product = _cross(rows, target, constant=constant)
        cross = product.to(torch.float64) if number == 0 else cross.add_(product)
    return cross


def reordered(sums: Tensor, order: Tensor | None, *axes: int) -> Tensor:
    """Put the features of one axis, or of the axes 1 and 2, into another order; see ``GramStatistics.reordered``."""
    if order is None:
        return sums
    constant = torch.arange(len(order), sums.shape[axes[0]])
    order = torch.cat([order, constant]).to(sums.device)
    # One copy of a large matrix: of the largest, each copy has 170 MB or more.
    return sums.index_select(axes[0], order) if len(axes) == 1 else sums[:, order[:, None], order]


def self_products(rows: Tensor) -> Tensor:
    """Return ``Z^T Z`` of each group: (groups, rows, F) -> (groups, F, F), in the dtype of the rows."""
    if rows.device.type != "cpu":
        return rows.mT @ rows
    # numpy computes one triangle of a matrix times its own transpose, in half the time.
    matrices = rows.detach().numpy()
    products = np.empty_like(matrices, shape=(len(rows), rows.shape[2], rows.shape[2]))
    with np.errstate(all="ignore"):  # as torch, which does not warn of values that are not finite
        for matrix, product in zip(matrices, products, strict=True):
            np.matmul(matrix.T, matrix, out=product)
    return torch.from_numpy(products)


def _cross(rows: Tensor, target: Tensor, *, constant: bool) -> Tensor:
    product = rows.mT @ target
    return torch.cat([product, target.sum(1, keepdim=True)], dim=1) if constant else product


def _add_gram(gram: Tensor, rows: Tensor, *, constant: bool) -> None:
    """Add the products of a batch; a copy of the rows with a column of ones would cost more."""
    features = rows.shape[2]
    gram[:, :features, :features] += self_products(rows)
    if constant:
        gram[:, -1, :-1] += rows.sum(1)
        gram[:, -1, -1] += rows.shape[1]
        gram[:, :-1, -1] = gram[:, -1, :-1]
