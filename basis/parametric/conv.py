"""A convolution whose filters are kernels of a parametric family, and replacing a network's layers by it."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from basis.computed import ComputedConv2d, in_layout_of
from basis.errors import CompressionError
from basis.least_squares import Size2d
from basis.parametric.evaluation import kernels, kernels_and_jacobian, reconstruct
from basis.parametric.families import FAMILIES
from basis.parametric.fitting import fit_parameters
from basis.swap import named_convolutions, replace_convolutions


class ParametricConv2d(ComputedConv2d):
    """A ``nn.Conv2d`` that learns the parameters of its filters' slices in a family instead of the filters.

    Args:
        conv: The convolution to approximate; it is left as it is.
        family: A name in ``basis.parametric.families.FAMILIES``.

    Attributes:
        coefficients: Parameter of shape (out_channels, in_channels / groups, 1, P): stored values of
            ``basis.parametric.evaluation``.

    Raises:
        NumericalError: The weight is not finite.

    Example:
        >>> ParametricConv2d(nn.Conv2d(3, 8, 3), "fracsrf").coefficients.shape
        torch.Size([8, 3, 1, 3])
    """

    def __init__(self, conv: nn.Conv2d, family: str) -> None:
        super().__init__(conv, family, None)
        weight = conv.weight.detach()
        if weight.is_meta:  # only shapes exist
            values = weight.new_empty((*weight.shape[:2], 1, FAMILIES[family].values))
        else:
            values = fit_parameters(weight, family)
        self.set_coefficients(conv, in_layout_of(weight, values))

    def filters(self) -> Tensor:
        """Evaluate the family at the kernel's taps, differentiably; see ``ComputedConv2d``."""
        stored, kernel = self.coefficients, cast(Size2d, self.kernel_size)
        if stored.is_meta:
            return stored.new_empty((*stored.shape[:2], *kernel))
        slices = stored.reshape(-1, stored.shape[-1]).T
        taps = cast(Tensor, _Evaluation.apply(slices, self.basis, kernel))
        return taps.permute(2, 0, 1).reshape(*stored.shape[:2], *kernel)

    def reconstructed(self) -> Tensor:
        """See ``ComputedConv2d``."""
        return reconstruct(self.coefficients, self.basis, cast(Size2d, self.kernel_size))


class _Evaluation(torch.autograd.Function):
    """Kernels (kh, kw, S) of stored values (P, S), in their dtype, with the derivatives in closed form."""

    @staticmethod
    def forward(context: Any, stored: Tensor, family: str, kernel: Size2d) -> Tensor:
        if not context.needs_input_grad[0]:
            return kernels(stored, family, kernel).to(stored.dtype)
        found, change = kernels_and_jacobian(stored, family, kernel)
        context.save_for_backward(change.to(stored.dtype))
        return found.to(stored.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (change,) = context.saved_tensors
        return (change * gradients[0]).sum((1, 2)), None, None


def swap_parametric(model: nn.Module, names: Sequence[str], family: str) -> nn.Module:
    """Replace convolutions by those of a family, fitted to their weights, in place.

    A convolution that the network uses under several names is replaced under all of them.

    Args:
        model: The network; a bare convolution is returned replaced.
        names: Names of the layers, as in ``named_modules``.
        family: A name in ``basis.parametric.families.FAMILIES``.

    Returns:
        The network.

    Raises:
        CompressionError: A layer does not exist or is no spatial convolution, there is none, or the family is unknown.
            Nothing is replaced then.
        NumericalError: A weight is not finite; the message names its layer.
    """
    if not names:
        raise CompressionError("swap: no layer is named; allowed: names of convolutions larger than 1x1")
    convolutions = {conv: name for name, conv in named_convolutions(model, names).items()}
    return replace_convolutions(model, convolutions, lambda conv, name: ParametricConv2d(conv, family))
