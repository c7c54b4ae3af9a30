"""Gradient steps on coefficients that move the filters as gradient steps on the filters would."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d

# Share of the largest eigenvalue of B^T B. High cosine orders are nearly dependent (11 of 11: condition 10^12), and the
# inverse would magnify the rounding of their float32 gradients; directions this faint learn more slowly instead.
DAMPING = 1e-4


@contextmanager
def filter_space_gradients(model: nn.Module) -> Iterator[None]:
    """Inside this context, the gradient of every series convolution's coefficients is taken in the space of filters.

    With W = B a, the gradient of the coefficients is B^T g for the filters' gradient g. A step along it moves the
    filters by B B^T g: directions in which the basis functions are long, such as the constant one, run ahead of the
    others, and a learning rate that suits them is too small for the rest. With (B^T B)^-1 in front, the filters move by
    B B^+ g, which is g projected on what the series can express: the two bases then train alike, and at the rates that
    suit ordinary convolutions. Momentum and weight decay are linear, so the same holds for them.

    Args:
        model: A network on its final device; its coefficients may be parametrized.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, SeriesConv2d) and _master(module).requires_grad:
                hooks.callback(_master(module).register_hook(_preconditioner(module)).remove)
        yield


def _master(conv: SeriesConv2d) -> nn.Parameter:
    """The parameter that the optimizer steps: the coefficients, or what their parametrization starts from."""
    if not parametrize.is_parametrized(conv, "coefficients"):
        return conv.coefficients
    chain = cast(nn.ModuleDict, conv.parametrizations)["coefficients"]
    return cast(nn.Parameter, chain.original)


def _preconditioner(conv: SeriesConv2d) -> Callable[[Tensor], Tensor]:
    """Gradient (O, I, nh, nw) -> the same times (B^T B)^-1 on its last two axes, in the gradient's own layout."""
    operator = conv.operator.to(torch.float64)
    gram = operator.T @ operator
    damping = DAMPING * torch.linalg.matrix_norm(gram, 2) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(gram + damping).to(conv.operator.dtype).reshape(*conv.order, *conv.order)

    def precondition(gradient: Tensor) -> Tensor:
        solved = torch.einsum("oiab,abcd->oicd", gradient, inverse)
        return torch.empty_like(gradient).copy_(solved)

    return precondition
