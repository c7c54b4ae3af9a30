"""Gram matrices of a layer's inputs, as its stored values meet them: what weighs the error of rounding."""

import torch
from torch import Tensor, nn

from basis.patches import patch_batches, samples


def linear_gram(x: Tensor) -> Tensor:
    """The Gram matrix of a linear layer's inputs.

    Args:
        x: Inputs, shape (..., features).

    Returns:
        Mean of x x^T, float64, shape (1, features, features).
    """
    rows = x.flatten(0, -2)
    return ((rows.T @ rows).to(torch.float64) / len(rows)).unsqueeze(0)


def conv_gram(conv: nn.Conv2d, x: Tensor, *, operator: Tensor | None = None, seed: int = 0) -> Tensor:
    """The Gram matrices of a convolution's input patches, one for each group of channels.

    Args:
        conv: The convolution.
        x: Inputs, float32, shape (N, in_channels, H, W).
        operator: The matrix (kh kw, n) from a slice's stored values to its kernel; None where the kernel is stored.
        seed: Chooses the positions of large feature maps; see ``basis.patches.samples``.

    Returns:
        Mean of p p^T over patches p, float64, shape (groups, F, F) with F = in_channels / groups * (n or kh kw), in
        the order of the flattened stored values.
    """
    features = (
        conv.in_channels // conv.groups * (operator.shape[1] if operator is not None else conv.weight[0, 0].numel())
    )
    total = torch.zeros(conv.groups, features, features, dtype=torch.float64, device=x.device)
    count = 0
    for rows in patch_batches(conv, x, samples(conv, x, seed=seed), operator):
        total += rows.mT @ rows
        count += rows.shape[1]
    return total / count
