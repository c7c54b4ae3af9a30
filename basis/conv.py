"""A convolution whose filters are series: it stores coefficients and evaluates them to kernels."""

from typing import cast

import torch
import torch.fx
from torch import Tensor, nn
from torch._jit_internal import is_scripting  # torch.jit does not export it explicitly, as mypy needs

from basis.computed import ComputedConv2d, in_layout_of
from basis.errors import CompressionError
from basis.least_squares import Size2d, fit, reconstruct
from basis.regular import irregularity
from basis.series import basis_matrix


class SeriesConv2d(ComputedConv2d):
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
    order: Size2d

    def __init__(self, conv: nn.Conv2d, basis: str, order: Size2d) -> None:
        super().__init__(conv, basis, order)
        weight = conv.weight.detach()
        self.set_coefficients(conv, in_layout_of(weight, self._initial(weight)))
        self.register_buffer("operator", self._kronecker().to(weight), persistent=False)

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
        return series_filters(self.coefficients, self.operator, self.kernel_size[0], self.kernel_size[1])

    def reconstructed(self) -> Tensor:
        """See ``ComputedConv2d``."""
        return reconstruct(self.coefficients, self.basis, cast(Size2d, self.kernel_size))


@torch.fx.wrap  # one node of a graph that torch.fx traces, because the memory format chooses the product
def series_filters(coefficients: Tensor, operator: Tensor, height: int, width: int) -> Tensor:
    """Evaluate the series of a convolution; see ``SeriesConv2d.filters``.

    Args:
        coefficients: (out_channels, in_channels / groups, nh, nw).
        operator: The matrix that maps a slice's coefficients to its kernel, (kh kw, nh nw).
        height: Rows of a kernel.
        width: Columns of a kernel.
    """
    if is_scripting():  # it takes only devices that are constants
        return _evaluated(coefficients, operator, height, width)
    device = "cpu" if coefficients.is_meta else coefficients.device.type
    # A kernel in bf16 would lose the small changes of fine-tuning, and the product is too small to gain from bf16.
    with torch.autocast(device, enabled=False):
        return _evaluated(coefficients, operator, height, width)


def _evaluated(coefficients: Tensor, operator: Tensor, height: int, width: int) -> Tensor:
    outputs, inputs = coefficients.shape[:2]
    # Both products have the few coefficients as rows and the many slices as columns, which BLAS does fastest.
    if coefficients.is_contiguous():
        slices = operator @ coefficients.reshape(outputs * inputs, -1).T
        return slices.T.reshape(outputs, inputs, height, width).contiguous()
    slices = operator @ coefficients.permute(0, 2, 3, 1).reshape(outputs, -1, inputs)
    return slices.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def is_compressible(module: nn.Module) -> bool:
    """Return True if a module is a regular spatial convolution, which a series can replace."""
    return (
        isinstance(module, nn.Conv2d)
        and not isinstance(module, ComputedConv2d)
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
