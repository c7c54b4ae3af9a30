"""Mean ``z z^T`` and ``z y^T`` of one layer: the Hessian and the right-hand side to refit and round its weights.

z is the layer's input as its stored values meet it, y its wanted output without the bias. The squared output error of a
row w stored as q is ``(w - q) H (w - q)^T`` with the Hessian ``H = E[z z^T]``, up to the factor 2.
"""

import torch
from torch import Tensor, nn

from basis.cholesky import RIDGE, ridge_solution
from basis.gram_statistics import GramStatistics
from basis.patches import Sample, by_sample, feature_order, patch_batches
from basis.shard import CalibrationShard


def refit(statistics: GramStatistics, stored: Tensor) -> Tensor:
    """Solve for the values nearest to the stored ones that reproduce the wanted outputs from these inputs.

    Args:
        statistics: Hessian and right-hand side of the layer.
        stored: Floating point, (O, F).

    Returns:
        The new values, (O, F), in the dtype of ``stored``.

    Raises:
        NumericalError: The statistics are not finite.

    Source:
        Ridge regression; see ``basis.cholesky.ridge_solution``.
    """
    columns = stored.to(torch.float64).unflatten(0, (len(statistics.gram), -1)).mT
    residual, ridge = statistics.cross - statistics.gram @ columns, RIDGE + statistics.scarcity
    solution: Tensor = columns + ridge_solution(statistics.gram, residual, ridge)
    return solution.mT.flatten(0, 1).to(stored.dtype)


def linear_hessian(x: Tensor, target: Tensor, shard: CalibrationShard | None = None) -> GramStatistics:
    """Compute the Hessian and the right-hand side of a linear layer.

    Args:
        x: Inputs, float32, (..., features).
        target: Wanted outputs without bias, (rows, outputs); rows are the flattened leading axes of ``x``.
        shard: Calibration shard of this rank; None if the rank holds all images.

    Returns:
        Means over the rows of all ranks; one group, F = features.
    """
    rows = x.flatten(0, -2)
    gram, cross = ((rows.mT @ other).to(torch.float64).unsqueeze(0) for other in (rows, target))
    square, count = target.double().square().sum().cpu(), torch.tensor(len(rows), dtype=torch.float64)
    return _mean(GramStatistics(gram, cross, square, count), shard)


def conv_hessian(
    conv: nn.Conv2d,
    x: Tensor,
    chosen: list[Sample],
    targets: Tensor,
    operator: Tensor | None = None,
    shard: CalibrationShard | None = None,
) -> GramStatistics:
    """Compute the Hessian and the right-hand side of a convolution at sampled positions.

    Args:
        conv: The convolution.
        x: Inputs, float32, (N, in_channels, H, W).
        chosen: The sampled positions; see ``basis.patches.samples``.
        targets: Wanted outputs without bias at the sampled positions, (groups, rows, O / groups).
        operator: The matrix (kh kw, n) from a slice's stored values to its kernel; None if the kernel itself is stored.
        shard: Calibration shard for which the positions were sampled; None if the rank holds all images.

    Returns:
        Means over the rows of all ranks; F = in_channels / groups * (n or kh kw), in the order of the flattened stored
        values.
    """
    batches, order = patch_batches(conv, x, chosen, operator), feature_order(conv, operator)
    return _mean(GramStatistics.accumulate(batches, by_sample(targets, chosen)).reordered(order), shard)


def _mean(sums: GramStatistics, shard: CalibrationShard | None) -> GramStatistics:
    return (sums if shard is None else sums.reduced(shard)).mean()


def conv_targets(conv: nn.Conv2d, chosen: list[Sample], outputs: Tensor) -> Tensor:
    """Select a convolution's outputs without bias: (N, O, H, W) -> the targets of ``conv_hessian``."""
    plain = outputs if conv.bias is None else outputs - conv.bias[:, None, None]
    return torch.cat([sample.of(plain.float(), conv.groups) for sample in chosen], dim=1)


def linear_targets(linear: nn.Linear, outputs: Tensor) -> Tensor:
    """Flatten a linear layer's outputs without bias: (..., O) -> the target of ``linear_hessian``."""
    return (outputs if linear.bias is None else outputs - linear.bias).float().flatten(0, -2)
