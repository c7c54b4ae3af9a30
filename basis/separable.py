"""The separable form of a series convolution: fixed basis filters on each channel, then a 1x1 convolution.

With ``W[o, c] = sum_ij A[o, c, i, j] b_i b_j^T``, the convolution is a sum of fixed convolutions,

    y[o] = sum_c W[o, c] * x[c] = sum_(c, i, j) A[o, c, i, j] (b_i b_j^T * x[c]),

where ``A`` are the coefficients, ``b_i`` the basis functions, ``x[c]`` the input channels and ``y[o]`` the output
channels. ``nh nw`` fixed depthwise filters compute ``nh nw`` maps of each input channel. The stored coefficients are
the weight of a 1x1 convolution of these maps. It needs ``nh nw / (kh kw)`` of the dense convolution's multiplications.
The depthwise filters need ``nh nw kh kw`` more for each value of an input channel, a small part if there are many
output channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from basis.errors import CompressionError
from basis.least_squares import Size2d
from basis.series import basis_matrix


class SeparableConv2d(nn.Module):
    """Convolution with the filters of a series in separable form, equal to the dense one up to rounding.

    Args:
        conv: The dense convolution, the source of stride, padding, padding mode, dilation, groups and bias.
        coefficients: Shape (out_channels, in_channels / groups, nh, nw).
        basis: A name in ``basis.families.BASES``.

    Attributes:
        maps: The depthwise convolution, (N, in_channels, H, W) to (N, in_channels nh nw, H', W'); not trained.
        mix: The 1x1 convolution. Its weight is the coefficients.

    Raises:
        CompressionError: The coefficients' shape is not the convolution's, or the order does not fit its kernel.

    Example:
        >>> conv = nn.Conv2d(3, 8, 3, padding=1)
        >>> SeparableConv2d(conv, fit(conv.weight, "cosine", (2, 2)), "cosine")(torch.zeros(1, 3, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, conv: nn.Conv2d, coefficients: Tensor, basis: str) -> None:
        super().__init__()
        channels = (conv.out_channels, conv.in_channels // conv.groups)
        if coefficients.ndim != 4 or tuple(coefficients.shape[:2]) != channels:
            shape, allowed = tuple(coefficients.shape), (*channels, "nh", "nw")
            raise CompressionError(f"SeparableConv2d: coefficients of shape {shape}; allowed: {allowed}")
        order_h, order_w = coefficients.shape[2:]
        filters = _basis_filters(basis, cast(Size2d, conv.kernel_size), (order_h, order_w))
        count = len(filters) * conv.in_channels
        self.maps = nn.Conv2d(
            conv.in_channels,
            count,
            cast(Size2d, conv.kernel_size),
            cast(Size2d, conv.stride),
            cast(Size2d, conv.padding),
            cast(Size2d, conv.dilation),
            groups=conv.in_channels,
            bias=False,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        self.maps.weight = nn.Parameter(
            filters.to(conv.weight).repeat(conv.in_channels, 1, 1).unsqueeze(1), requires_grad=False
        )
        self.mix = nn.Conv2d(count, conv.out_channels, 1, groups=conv.groups, bias=False, device="meta")
        # The maps of one channel are contiguous, in the order of its coefficients.
        self.mix.weight = nn.Parameter(coefficients.detach().to(conv.weight).flatten(1)[..., None, None].clone())
        self.mix.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a batch of shape (N, in_channels, H, W)."""
        return cast(Tensor, self.mix(self.maps(x)))


def _basis_filters(basis: str, kernel: Size2d, order: Size2d) -> Tensor:
    """Multiply all pairs of basis functions on the kernel's grid: float64, (nh nw, kh, kw)."""
    height, width = (basis_matrix(basis, k, n) for k, n in zip(kernel, order, strict=True))
    return torch.einsum("yi,xj->ijyx", height, width).flatten(0, 1)
