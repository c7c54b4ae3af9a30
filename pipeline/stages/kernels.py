"""Reconstruct filter slices in every basis, for the pictures of the report."""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import nn

from basis.families import BASES
from basis.least_squares import fit, reconstruct
from basis.swap import compressible_convolutions
from pipeline.models.layer_orders import LayerPlan
from pipeline.stages.baseline import Baseline
from pipeline.stages.variant import VariantResult
from reports.model import Kernels, Slice

_SHOWN_SLICES: Final = 6


def kernel_figure(baseline: Baseline, result: VariantResult) -> Kernels | None:
    """Reconstruct a few filter slices in every basis: the largest of the first compressed layer, and of other layers.

    Returns:
        The slices and their fits; None if no layer is a series.
    """
    planned = [layer for layer in result.network.layers if layer.order is not None]
    compressed = [layer for layer in planned if layer.status == "compressed"] or planned
    if not compressed:
        return None
    convolutions = compressible_convolutions(baseline.model)
    first, *others = (_slice(convolutions[layer.name], layer) for layer in _spread(compressed, _SHOWN_SLICES))
    return Kernels(**first.model_dump(), further=others)


def _spread(layers: Sequence[LayerPlan], count: int) -> list[LayerPlan]:
    """Return at most `count` layers, evenly spread from the first to the last."""
    last, steps = len(layers) - 1, max(1, min(count, len(layers)) - 1)
    return [layers[place] for place in sorted({round(step * last / steps) for step in range(steps + 1)})]


def _slice(convolution: nn.Conv2d, layer: LayerPlan) -> Slice:
    """Return the slice of largest norm of a layer with an order, and its fits."""
    order = cast(tuple[int, int], layer.order)
    slices = convolution.weight.detach().cpu().float().flatten(0, 1)
    kernel = slices[int(torch.linalg.vector_norm(slices, dim=(1, 2)).argmax())]
    size = (kernel.shape[0], kernel.shape[1])
    fits = {basis: reconstruct(fit(kernel, basis, order), basis, size).tolist() for basis in BASES}
    return Slice(layer=layer.name, original=kernel.tolist(), fits=fits, orders=list(order))
