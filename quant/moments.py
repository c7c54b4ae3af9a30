"""What a layer's inputs and wanted outputs say of its stored values: the moments that weigh the error of rounding."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basis.patches import Sample, by_sample, patch_batches
from basis.portion import Portion
from basis.ridge import ridge_solution


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's inputs z, as its stored values meet them, and of its wanted outputs y without bias.

    Attributes:
        gram: Mean of z z^T, float64, (groups, F, F).
        cross: Mean of z y^T, float64, (groups, F, O / groups).
    """

    gram: Tensor
    cross: Tensor

    def refit(self, stored: Tensor) -> Tensor:
        """The values nearest to `stored`, (O, F), that give the wanted outputs from these inputs; same dtype."""
        columns = stored.to(torch.float64).unflatten(0, (len(self.gram), -1)).mT
        found: Tensor = columns + ridge_solution(self.gram, self.cross - self.gram @ columns)
        return found.mT.flatten(0, 1).to(stored.dtype)


def linear_moments(x: Tensor, target: Tensor, portion: Portion | None = None) -> Moments:
    """The moments of a linear layer.

    Args:
        x: Inputs, (..., features).
        target: Wanted outputs without bias, (rows, outputs), the leading axes of the inputs flattened.
        portion: Where several processes share the images: how their sums become one.
    """
    rows = x.flatten(0, -2)
    gram, cross = ((rows.mT @ other).to(torch.float64).unsqueeze(0) for other in (rows, target))
    return _means(gram, cross, len(rows), portion)


def conv_moments(
    conv: nn.Conv2d,
    x: Tensor,
    chosen: list[Sample],
    targets: Tensor,
    operator: Tensor | None = None,
    portion: Portion | None = None,
) -> Moments:
    """The moments of a convolution at sampled positions.

    Args:
        conv: The convolution.
        x: Inputs, float32, shape (N, in_channels, H, W).
        chosen: The positions; see ``basis.patches.samples``.
        targets: The wanted outputs without bias at the chosen positions, (groups, rows, O / groups).
        operator: The matrix (kh kw, n) from a slice's stored values to its kernel; None where the kernel is stored.
        portion: Where several processes share the images: the one that the positions were chosen for.

    Returns:
        F = in_channels / groups * (n or kh kw), in the order of the flattened stored values.
    """
    gram, cross, count = torch.zeros(()), torch.zeros(()), 0
    for rows, target in zip(patch_batches(conv, x, chosen, operator), by_sample(targets, chosen), strict=True):
        gram = gram + (rows.mT @ rows).to(torch.float64)
        cross = cross + (rows.mT @ target).to(torch.float64)
        count += rows.shape[1]
    return _means(gram, cross, count, portion)


def _means(gram: Tensor, cross: Tensor, count: int, portion: Portion | None) -> Moments:
    """Sums over so many rows -> means over the rows of all processes."""
    if portion is None:
        return Moments(gram / count, cross / count)
    rows = float(portion.reduce(torch.tensor(count, dtype=torch.float64)))
    return Moments(portion.reduce(gram) / rows, portion.reduce(cross) / rows)


def conv_targets(conv: nn.Conv2d, chosen: list[Sample], outputs: Tensor) -> Tensor:
    """A convolution's own outputs (N, O, H, W), without its bias, as ``conv_moments`` wants them."""
    plain = outputs if conv.bias is None else outputs - conv.bias[:, None, None]
    return torch.cat([sample.of(plain.float(), conv.groups) for sample in chosen], dim=1)


def linear_targets(linear: nn.Linear, outputs: Tensor) -> Tensor:
    """A linear layer's own outputs (..., O), without its bias, as ``linear_moments`` wants them."""
    return (outputs if linear.bias is None else outputs - linear.bias).float().flatten(0, -2)
