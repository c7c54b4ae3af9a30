"""A convolution whose filters are series: it stores coefficients and evaluates them to kernels."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from basis.errors import CompressionError
from basis.least_squares import Size2d, fit, reconstruct
from basis.regular import irregularity
from basis.series import basis_matrix


class SeriesConv2d(nn.Conv2d):
    """A ``nn.Conv2d`` that learns the coefficients of its filters' series instead of the filters.

    Stride, padding, padding mode, dilation, groups and bias are those of the convolution that it replaces.

    Args:
        conv: The convolution to approximate; it is left as it is.
        basis: A name in ``basis.families.BASES``.
        order: Terms kept per axis, (nh, nw).

    Attributes:
        coefficients: Parameter of shape (out_channels, in_channels / groups, nh, nw).
        bias: Parameter of shape (out_channels,), or None.

    Raises:
        CompressionError: The order does not fit the kernel.
        NumericalError: The weight is not finite.

    Source:
        Costain and Prisacariu, BMVC 2022 (CosConv, ChebConv).

    Example:
        >>> SeriesConv2d(nn.Conv2d(3, 8, 7, stride=2), "cosine", (5, 5)).coefficients.shape
        torch.Size([8, 3, 5, 5])
    """

    operator: Tensor

    def __init__(self, conv: nn.Conv2d, basis: str, order: Size2d) -> None:
        super().__init__(**_arguments(conv))
        del self.weight
        self.basis, self.order = basis, order
        weight = conv.weight.detach()
        # Read from the parameters: a parametrized weight is computed, and under no_grad it never requires a gradient.
        trained = any(p.requires_grad for name, p in conv.named_parameters() if name != "bias")
        self.coefficients = nn.Parameter(_in_layout_of(weight, self._initial(weight)), requires_grad=trained)
        self.bias = _copy(conv.bias)
        self.register_buffer("operator", self._kronecker().to(weight), persistent=False)
        self.train(conv.training)

    def _initial(self, weight: Tensor) -> Tensor:
        """Fit the weights; on the meta device only shapes exist."""
        if weight.is_meta:
            return weight.new_empty((*weight.shape[:2], *self.order))
        return fit(weight, self.basis, self.order)

    def _kronecker(self) -> Tensor:
        """Return the matrix that maps a slice's coefficients to its kernel: (kh kw, nh nw), float64."""
        matrices = [basis_matrix(self.basis, k, n) for k, n in zip(self.kernel_size, self.order, strict=True)]
        return torch.kron(matrices[0], matrices[1])

    def filters(self) -> Tensor:
        """Evaluate the series at the kernel's taps, differentiably.

        Returns:
            Kernels of shape (out_channels, in_channels / groups, kh, kw), channels last if the coefficients are.
        """
        coefficients, operator = self.coefficients, self.operator
        outputs, inputs = coefficients.shape[:2]
        device = "cpu" if coefficients.is_meta else coefficients.device.type
        # A kernel in bf16 would lose the small changes of fine-tuning, and the product is too small to gain from bf16.
        with torch.autocast(device, enabled=False):
            # Both products have the few coefficients as rows and the many slices as columns, which BLAS does fastest.
            if coefficients.is_contiguous():
                slices = operator @ coefficients.reshape(outputs * inputs, -1).T
                return slices.T.reshape(outputs, inputs, *self.kernel_size).contiguous()
            slices = operator @ coefficients.permute(0, 2, 3, 1).reshape(outputs, -1, inputs)
            return slices.view(outputs, *self.kernel_size, inputs).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a batch of shape (N, in_channels, H, W) with the series' filters."""
        output: Tensor = self._conv_forward(x, self.filters(), self.bias)
        return output

    def materialize(self) -> nn.Conv2d:
        """Evaluate the series once, in float64, into an ordinary convolution.

        Returns:
            A ``nn.Conv2d`` with the same arguments, device and dtype, and no tie to this module's parameters.
        """
        conv = nn.Conv2d(**_arguments(self))
        coefficients = self.coefficients.detach()
        weight = reconstruct(coefficients, self.basis, cast(Size2d, self.kernel_size))
        conv.weight = nn.Parameter(_in_layout_of(coefficients, weight), requires_grad=self.coefficients.requires_grad)
        conv.bias = _copy(self.bias)
        return conv.train(self.training)

    def extra_repr(self) -> str:
        """Return the convolution's arguments, then basis and order."""
        convolution = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{convolution}, basis={self.basis}, order={self.order}"


def _copy(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


def _in_layout_of(source: Tensor, values: Tensor) -> Tensor:
    """Return the values in the memory format of the source: converting at every step would cost time."""
    return values if source.is_contiguous() else values.contiguous(memory_format=torch.channels_last)


def _arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments of an equal convolution, on the meta device because its tensors are replaced."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": False, "device": "meta"}


def is_compressible(module: nn.Module) -> bool:
    """Return True if a module is a regular spatial convolution, which a series can replace."""
    return (
        isinstance(module, nn.Conv2d)
        and not isinstance(module, SeriesConv2d)
        and irregularity(module) is None
        and max(module.kernel_size) > 1
    )


def require_compressible(module: nn.Module, name: str) -> nn.Conv2d:
    """Return the module as a convolution that can be swapped.

    Raises:
        CompressionError: The module is not a plain spatial ``nn.Conv2d``.
    """
    if not is_compressible(module):
        raise CompressionError(
            f"swap: layer {name!r} is a {type(module).__name__}; allowed: nn.Conv2d with a kernel larger than 1"
        )
    return cast(nn.Conv2d, module)
