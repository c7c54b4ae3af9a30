"""Turn gradients of the stored values of parametric convolutions into steps of their filters."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from basis.layers import master_tensor
from basis.least_squares import Size2d
from basis.parametric.conv import ParametricConv2d
from basis.parametric.evaluation import kernels_and_jacobian, limits
from basis.parametric.normal_equations import damped_solution, gram

DAMPING: Final = 0.1
"""Share of a layer's mean squared derivative that is added for each parameter. Measured in docs/training.md."""


@contextmanager
def filter_space_gradients(model: nn.Module) -> Iterator[None]:
    """Precondition the gradients of parametric convolutions, and keep their parameters in range, inside this context.

    The gradient ``J^T g`` of a slice's stored values becomes ``(1 + d) (J^T J + d D)^-1 J^T g``, with ``d = DAMPING``.
    ``J`` are the derivatives of the slice's kernel, and ``g`` is the gradient of the kernel. ``D`` is the diagonal of
    ``J^T J`` as a mean over the layer. A step then moves the kernel by the projection of ``g`` on the kernels that the
    parameters reach. The same holds for the orthonormal coefficients of a series. The length of a plain step would
    depend on the units of amplitude, orders, centre and width. Without damping, the parameters of a slice of small
    amplitude would jump.

    Args:
        model: A network on its final device; the stored values may be parametrized.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, ParametricConv2d) and (master := master_tensor(module)).requires_grad:
                hooks.callback(master.register_hook(_projection(master, module)).remove)
                hooks.callback(module.register_forward_pre_hook(_keep_in_range).remove)
        yield


def _projection(master: Tensor, module: ParametricConv2d) -> Callable[[Tensor], Tensor]:
    family, kernel = module.basis, cast(Size2d, module.kernel_size)

    def project(gradient: Tensor) -> Tensor:
        count = master.shape[-1]
        _, change = kernels_and_jacobian(master.detach().reshape(-1, count).T, family, kernel)
        matrix = gram(change.flatten(1, 2))
        damping = DAMPING * matrix.diagonal(dim1=1, dim2=2).mean(0)[:, None]
        right = gradient.reshape(-1, count).T.to(torch.float64)
        step = (1 + DAMPING) * damped_solution(matrix, right, damping)
        return torch.empty_like(gradient).copy_(step.T.view(gradient.shape))

    return project


@torch.no_grad()
def _keep_in_range(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Clamp the parameters that the last step of the optimizer has moved out of their ranges."""
    master = master_tensor(module)
    least, largest = limits(cast(ParametricConv2d, module).basis, master.device)
    master.clamp_(least.to(master.dtype), largest.to(master.dtype))
