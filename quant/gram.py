"""Gram matrices of a layer's inputs, as its stored values meet them: what weighs the error of rounding."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK_VALUES = 2**24
POSITIONS = 2**15


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

    Padding, padding mode, stride and dilation are the convolution's. Of large feature maps the same number of random
    positions is taken from every image, about ``POSITIONS`` in all.

    Args:
        conv: The convolution.
        x: Inputs, float32, shape (N, in_channels, H, W).
        operator: The matrix (kh kw, n) from a slice's stored values to its kernel; None where the kernel is stored.
        seed: Chooses the positions.

    Returns:
        Mean of p p^T over patches p, float64, shape (groups, F, F) with F = in_channels / groups * (n or kh kw), in
        the order of the flattened stored values.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = conv.in_channels // conv.groups
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    total = torch.zeros(conv.groups, inputs * taps, inputs * taps, dtype=torch.float64, device=x.device)
    per_image, count = -(-POSITIONS // len(x)), 0
    for images in x.split(max(1, CHUNK_VALUES // (x[0].numel() * taps))):
        patches = _patches(conv, images)
        chosen = torch.randperm(patches.shape[2], generator=generator)[:per_image].sort().values.to(x.device)
        rows = patches[:, :, chosen].transpose(1, 2).reshape(-1, conv.groups, inputs * taps).transpose(0, 1)
        total += (rows.transpose(1, 2) @ rows).to(torch.float64)
        count += rows.shape[1]
    return _in_series(total / count, inputs, operator)


def _patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The input values under every position of the kernel: (N, in_channels * kh * kw, positions)."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    size, dilation, stride = (cast(tuple[int, int], s) for s in (conv.kernel_size, conv.dilation, conv.stride))
    return functional.unfold(padded.contiguous(), size, dilation=dilation, stride=stride)


def _in_series(gram: Tensor, inputs: int, operator: Tensor | None) -> Tensor:
    """The Gram matrix of the stored values, from that of the kernel's: K^T G K for every pair of channels."""
    if operator is None:
        return gram
    taps, terms = operator.shape
    blocks = gram.view(len(gram), inputs, taps, inputs, taps)
    matrix = operator.to(gram)
    seen = torch.einsum("gckdl,kn,lm->gcndm", blocks, matrix, matrix)
    return seen.reshape(len(gram), inputs * terms, inputs * terms)
