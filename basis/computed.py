"""The base class of convolutions that compute their filters from other stored values."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from basis.least_squares import Size2d


class ComputedConv2d(nn.Conv2d, ABC):
    """A ``nn.Conv2d`` whose filters are a function of its stored values.

    Stride, padding, padding mode, dilation, groups and bias are those of the convolution that it replaces.

    Args:
        conv: The convolution to approximate; it is left as it is.
        basis: A choice of ``--basis``.
        order: Terms kept per axis, (nh, nw); None for a family without terms.

    Attributes:
        coefficients: Parameter with the stored values, (out_channels, in_channels / groups, n, m).
        bias: Parameter of shape (out_channels,), or None.
    """

    def __init__(self, conv: nn.Conv2d, basis: str, order: Size2d | None) -> None:
        super().__init__(**_arguments(conv))
        del self.weight
        self.basis, self.order = basis, order
        self.bias = _copy(conv.bias)
        self.train(conv.training)

    def set_coefficients(self, conv: nn.Conv2d, values: Tensor) -> None:
        """Register the stored values; they are trained if the weight of the replaced convolution is.

        Args:
            conv: The replaced convolution.
            values: (O, I, nh, nw) for a series, (O, I, 1, P) for a parametric family.
        """
        # Read from the parameters: a parametrized weight is computed, and under no_grad it never requires a gradient.
        trained = any(p.requires_grad for name, p in conv.named_parameters() if name != "bias")
        self.coefficients = nn.Parameter(values, requires_grad=trained)

    def __getattr__(self, name: str) -> Any:
        """Return the filters as ``weight``, which networks read, such as for its dtype or a penalty on its size."""
        computed = name == "weight" and "weight" not in self._parameters
        return self.filters() if computed else super().__getattr__(name)

    @abstractmethod
    def filters(self) -> Tensor:
        """Compute the kernels differentiably: (out_channels, in_channels / groups, kh, kw)."""

    @abstractmethod
    def reconstructed(self) -> Tensor:
        """Compute the kernels in float64 and return them in the dtype of the coefficients, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a batch of shape (N, in_channels, H, W) with the filters."""
        output: Tensor = self._conv_forward(x, self.filters(), self.bias)
        return output

    def materialize(self) -> nn.Conv2d:
        """Compute the filters once, in float64, into an ordinary convolution.

        Returns:
            A ``nn.Conv2d`` with the same arguments, device and dtype, and no tie to this module's parameters.
        """
        conv = nn.Conv2d(**_arguments(self))
        weight = in_layout_of(self.coefficients.detach(), self.reconstructed())
        conv.weight = nn.Parameter(weight, requires_grad=self.coefficients.requires_grad)
        conv.bias = _copy(self.bias)
        return conv.train(self.training)

    def extra_repr(self) -> str:
        """Return the convolution's arguments, then basis and order."""
        convolution = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{convolution}, basis={self.basis}" + ("" if self.order is None else f", order={self.order}")


def in_layout_of(source: Tensor, values: Tensor) -> Tensor:
    """Return the values in the memory format of the source, so that no training step has to convert them.

    Args:
        source: A tensor of four axes.
        values: Any tensor of four axes.
    """
    return values if source.is_contiguous() else values.contiguous(memory_format=torch.channels_last)


def _copy(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


def _arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments of an equal convolution without a bias, on the meta device: its tensors are set later."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": False, "device": "meta"}
