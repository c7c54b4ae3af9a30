"""Reconstruct filter slices by series and parametric families, for the pictures of the report."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from basis.families import BASES
from basis.least_squares import Size2d, fit, reconstruct
from basis.parametric.evaluation import reconstruct as evaluate
from basis.parametric.families import is_parametric
from basis.parametric.fitting import fit_parameters
from basis.swap import compressible_convolutions
from pipeline.models.layer_orders import LayerPlan
from pipeline.stages.baseline import Baseline
from pipeline.stages.variant import VariantResult
from reports.model import Kernels, Slice

_SHOWN_SLICES: Final = 6


def kernel_figure(baseline: Baseline, result: VariantResult, bases: Sequence[str]) -> Kernels | None:
    """Reconstruct a few filter slices: the largest of the first compressed layer, and of other layers.

    A layer with an order is shown in every series basis. A parametric family replaces every layer that a series
    replaces, so each slice is also shown in all families of the run.

    Args:
        baseline: The uncompressed network.
        result: The network whose layers are shown.
        bases: The bases of the run.

    Returns:
        The slices and their fits to the weights; None if no layer is replaced.
    """
    planned = [layer for layer in result.network.layers if layer.status != "kept"]
    compressed = [layer for layer in planned if layer.status == "compressed"] or planned
    if not compressed:
        return None
    convolutions = compressible_convolutions(baseline.model)
    families = [basis for basis in bases if is_parametric(basis)]
    shown = _spread(compressed, _SHOWN_SLICES)
    first, *others = (_slice(convolutions[layer.name], layer, families) for layer in shown)
    return Kernels(**first.model_dump(), further=others)


def _spread(layers: Sequence[LayerPlan], count: int) -> list[LayerPlan]:
    """Return at most ``count`` layers, evenly spread from the first to the last."""
    last, steps = len(layers) - 1, max(1, min(count, len(layers)) - 1)
    return [layers[place] for place in sorted({round(step * last / steps) for step in range(steps + 1)})]


def _slice(convolution: nn.Conv2d, layer: LayerPlan, families: Sequence[str]) -> Slice:
    """Return the slice of largest norm of a replaced layer, and its fits."""
    slices = convolution.weight.detach().cpu().float().flatten(0, 1)
    kernel = slices[int(torch.linalg.vector_norm(slices, dim=(1, 2)).argmax())]
    fits = {} if layer.order is None else {basis: _series(kernel, basis, layer.order) for basis in BASES}
    fits |= {family: _parametric(kernel, family) for family in families}
    orders = None if layer.order is None else list(layer.order)
    return Slice(
        layer=layer.name,
        original=kernel.tolist(),
        fits={basis: found.tolist() for basis, found in fits.items()},
        orders=orders,
    )


def _series(kernel: Tensor, basis: str, order: Size2d) -> Tensor:
    return reconstruct(fit(kernel, basis, order), basis, (kernel.shape[0], kernel.shape[1]))


def _parametric(kernel: Tensor, family: str) -> Tensor:
    stored = fit_parameters(kernel[None, None], family)
    return evaluate(stored, family, (kernel.shape[0], kernel.shape[1]))[0, 0]
