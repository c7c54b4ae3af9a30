"""Replace the planned layers of a network by series or by kernels of a parametric family."""

from collections.abc import Sequence

from torch import nn

from basis.parametric.conv import swap_parametric
from basis.parametric.families import is_parametric
from basis.swap import swap_convolutions
from pipeline.models.layer_orders import LayerPlan, orders_of


def replaced_layers(plan: Sequence[LayerPlan]) -> list[str]:
    """Return the names of the layers that a plan replaces."""
    return [layer.name for layer in plan if layer.status != "kept"]


def replace_layers(model: nn.Module, plan: Sequence[LayerPlan], basis: str) -> nn.Module:
    """Replace the planned layers, fitted to their weights, in place.

    Args:
        model: The network; a bare convolution is returned replaced.
        plan: The plan of its layers, with at least one that is not kept.
        basis: A choice of ``--basis``.

    Returns:
        The network.

    Raises:
        CompressionError: A layer of the plan cannot be replaced.
        NumericalError: A weight is not finite.
    """
    if is_parametric(basis):
        return swap_parametric(model, replaced_layers(plan), basis)
    return swap_convolutions(model, orders_of(plan), basis)
